"""A run's folder is read while it is written, and what is wrong in it is told in one line."""

import json

import pytest
from run_by_hand import run_by_hand, write_lines

from distillens_plugin.recipe.yaml_tags import ImportedName
from distillens_plugin.reports.run_records import names_of, read_run, read_runs
from eval_harness.errors import DistillensError


@pytest.fixture
def folder(tmp_path):
    return run_by_hand(tmp_path / "quick")


def test_a_run_is_read_as_it_was_written(folder):
    run = read_run(folder)
    assert run.name == "quick"
    assert run.terms == ["kd", "lens"]
    assert run.layer_pairs == [("lens", 1, 1), ("lens", 2, 2), ("lens", 3, 3)]
    assert run.series("lr")[0] == [10, 20, 30, 40, 50, 60]
    assert run.series("validation_loss", validation=True)[0] == [0, 20, 40, 60]
    assert [line.step for line in run.lens] == [0, 20, 40, 60]
    assert run.lens[1].teacher is None
    assert [line.answer for line in run.answers] == ["#### 1", "#### 7, I think", "#### 8"]
    assert run.summary.best_step == run.last_step == 60


@pytest.mark.parametrize("end", ['{"step": 70, "loss": 1.', '{"st', "\0\0\0", '{"a": "\udc80'])
@pytest.mark.parametrize("name", ["metrics.jsonl", "lens.jsonl", "answers.jsonl"])
def test_half_a_line_at_the_end_is_left_out(folder, name, end):
    whole = read_run(folder)
    with (folder / name).open("ab") as file:
        file.write(end.encode("utf-8", "surrogateescape"))
    assert read_run(folder) == whole


def test_a_whole_line_without_its_line_feed_counts(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 70, "loss": 1.5}')
    assert read_run(folder).last_step == 70


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("metrics.jsonl", '{"step": 1', r"metrics\.jsonl:2:11: not JSON"),
        ("metrics.jsonl", '{"step": 1, "loss": NaN}', r"metrics\.jsonl:2:\d+: .*NaN"),
        ("metrics.jsonl", '{"loss": 1.0}', r"metrics\.jsonl:2: no key step"),
        ("metrics.jsonl", "[1]", r"metrics\.jsonl:2: found no JSON object"),
        ("metrics.jsonl", '{"step": -1}', r"metrics\.jsonl:2: step = -1"),
        ("answers.jsonl", '{"step": 1}', r"answers\.jsonl:2: no key row"),
        ("lens.jsonl", '{"step": 1}', r"lens\.jsonl:2: no key num_positions"),
    ],
)
def test_a_broken_line_within_a_file_is_named(folder, name, line, message):
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(DistillensError, match=message):
        read_run(folder)


def test_lists_of_other_lengths_are_refused(folder):
    lines = [json.loads(line) for line in (folder / "lens.jsonl").read_text().splitlines()]
    lines[0]["student"]["entropy"].pop()
    write_lines(folder / "lens.jsonl", lines)
    with pytest.raises(DistillensError, match="entropy has 4 numbers for 5 layers"):
        read_run(folder)
    lines[0]["student"]["entropy"].append(1.0)
    lines[1]["confidence"]["surer_by"].pop()
    write_lines(folder / "lens.jsonl", lines)
    with pytest.raises(DistillensError, match="surer_by has another length than the 3 pairs"):
        read_run(folder)


def test_a_run_of_an_older_version_has_less(folder):
    for name in ("lens.jsonl", "answers.jsonl", "summary.json", "recipe.yaml"):
        (folder / name).unlink()
    run = read_run(folder)
    assert (run.lens, run.answers, run.summary, run.recipe) == ((), (), None, {})
    assert run.last_step == 60


def test_what_is_no_run_is_told(tmp_path, folder):
    with pytest.raises(DistillensError, match=r"nowhere: does not exist; expected the output"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DistillensError, match="file: is a file"):
        read_run(tmp_path / "file")
    with pytest.raises(DistillensError, match=r"holds no metrics\.jsonl.*did you mean .*quick\?"):
        read_run(tmp_path)
    (folder / "summary.json").write_text("{")
    with pytest.raises(DistillensError, match=r"summary\.json:1:2: not JSON"):
        read_run(folder)
    (folder / "summary.json").write_text('{"num_steps": "many"}')
    with pytest.raises(DistillensError, match="num_steps = 'many'"):
        read_run(folder)


def test_runs_are_told_apart_by_the_parts_of_their_paths_that_differ(tmp_path, folder):
    def names(*paths):
        return names_of([tmp_path / path for path in paths])

    assert names("a", "b") == ["a", "b"]
    assert names("a/train", "b/train") == ["a", "b"]
    assert names("a/1/train", "a/2/train", "b/1/train") == ["a/1", "a/2", "b/1"]
    assert names("x/a", "a") == ["x", tmp_path.name]
    with pytest.raises(DistillensError, match="named twice"):
        read_runs([folder, tmp_path / "." / "quick"])


def test_the_names_of_a_trusted_recipe_are_read_and_not_imported(folder):
    tag = "!import_get {key: nosuch_module.Sampler}"
    recipe = f"train: {{train_data_loader: {{sampler: {{class_or_func: {tag}}}}}}}\n"
    (folder / "recipe.yaml").write_text(recipe)
    sampler = read_run(folder).recipe["train"]["train_data_loader"]["sampler"]
    assert sampler == {"class_or_func": ImportedName("nosuch_module.Sampler")}
    # Tags that run code stay refused: reading a page's files runs nothing.
    (folder / "recipe.yaml").write_text("seed: !import_call {key: os.getcwd}\n")
    with pytest.raises(DistillensError, match="import_call"):
        read_run(folder)
