"""`--validate` and the data: missing, malformed or endless files, templates, impossible names."""

import pytest
from local_recipe import local_recipe, refusal


def test_a_missing_data_file_is_no_hub_name(tmp_path):
    for name in (tmp_path / "none.jsonl", "none.jsonl", "./none"):
        text = refusal(local_recipe(tmp_path, f"datasets.train.path={name}"))
        assert "datasets.train.path: there is no file" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": \n', "data.jsonl:2:"),
        ('{"instruction": "a"}\n', "data.jsonl:1"),
        ("", "data.jsonl"),
    ],
)
def test_a_malformed_data_file_names_the_place(tmp_path, content, expected):
    (tmp_path / "data.jsonl").write_text(content, encoding="utf-8")
    assert expected in refusal(local_recipe(tmp_path))


def test_an_unknown_template_is_named_with_its_key(tmp_path):
    text = refusal(local_recipe(tmp_path, "datasets.train.template=alpacca"))
    assert "datasets.train.template" in text
    assert "'alpaca'" in text


def test_a_folder_of_more_files_than_data_sets_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("distillens_plugin.preflight.validate._MAX_DATA_FILES", 3)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    found = refusal(local_recipe(tmp_path, f"datasets.train.path={folder}"))
    assert "datasets.train.path: " in found
    assert "more than 3 files" in found


@pytest.mark.parametrize("key", ["models.teacher_model.adapter", "datasets.train.path"])
def test_a_name_longer_than_any_file_can_have_is_refused(tmp_path, key):
    for name in ("x" * 300, "a/" * 2500, "x" * 300 + ".jsonl"):
        assert key in refusal(local_recipe(tmp_path, f"{key}={name}"))


def test_too_long_names_of_generated_answers_are_refused(tmp_path):
    given = ("datasets.train.generated=true", f"datasets.train.path={'x' * 300}.jsonl")
    assert "datasets.train.path" in refusal(local_recipe(tmp_path, *given))
