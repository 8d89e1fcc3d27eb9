"""Folders of data files: every file is read or refused by name, and slices guess no types."""

import json

import pytest
from datasets import Dataset
from datasets.arrow_reader import ReadInstruction

from distillens_plugin.data.rows import read_rows
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError

WHERE = "r.yaml: datasets.train"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(path, **options):
    """The instructions of the rows, which `write` makes the files' names."""
    rows = read_rows(DatasetSpec(path=str(path), **options), where=WHERE)
    return [row.instruction for row in rows]


def refusal(path, **options):
    with pytest.raises(DistillensError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}.")
    assert "\n" not in message
    return message


def write(folder, *names):
    """Files of one row each, whose instruction is the file's name."""
    for name in names:
        file, row = folder / name, {"instruction": name, "output": "x"}
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            Dataset.from_list([row]).to_parquet(file)
        elif name.endswith(".csv"):
            file.write_text(f"instruction,output\n{name},x\n")
        else:
            file.write_text(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["gsm8k_train.jsonl", "dolly.jsonl"], "dolly.jsonl"),
        (["a.jsonl", "b.parquet"], "a.jsonl"),
        (["a.jsonl", "b.csv"], "b.csv"),
        (["train.jsonl", "test.jsonl", "more/contest.jsonl"], "more/contest.jsonl"),
        (["data/train-00000-of-00001.parquet", "new.parquet"], "new.parquet"),
    ],
)
def test_a_file_that_no_split_holds_is_refused_by_name(tmp_path, names, left):
    folder = write(tmp_path / "set", *names)
    for options in ({}, {"streaming": True}, {"split": "test"}):
        assert f"holds files that would be left out: {left}; " in refusal(folder, **options)
    assert read(folder, data_files=left) == [left]


def test_a_pattern_names_some_files_of_a_folder(tmp_path):
    folder = write(tmp_path / "set", "a.jsonl", "my_train.jsonl", "c.parquet")
    assert read(folder, data_files="*.jsonl") == ["a.jsonl", "my_train.jsonl"]


def test_files_of_other_splits_and_files_that_are_no_data_are_not_missed(tmp_path):
    names = ["my-train.jsonl", "x_valid.jsonl", "test.jsonl", "config.json", ".old/a.jsonl"]
    folder = write(tmp_path / "set", *names)
    (folder / "notes.txt").write_text("not data")
    for split, name in [("train", names[0]), ("validation", names[1]), ("test", names[2])]:
        assert read(folder, split=split) == [name]


def test_a_folder_that_says_itself_which_files_are_data_is_believed(tmp_path):
    folder = write(tmp_path / "set", "a.jsonl", "b.jsonl")
    card = "---\nconfigs:\n- config_name: default\n  data_files: b.jsonl\n---\n"
    (folder / "README.md").write_text(card)
    assert read(folder) == ["b.jsonl"]


# Half of five and of 11 rows are not whole numbers.
@pytest.mark.parametrize(
    "split",
    ["train[:50%]", "train[-30%:]", "train[33%:66%]", "train[5%:-5%]", "train[1:3]+test[-50%:]"],
)
def test_slices_are_those_of_the_datasets_library_and_texts_stay_texts(tmp_path, split):
    numbers = {"train": 11, "test": 5}
    for name, number in numbers.items():
        lines = "".join(f"{row}.50,2024-01-01\n" for row in range(number))
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{name}.csv").write_text(f"instruction,output\n{lines}")
    parts = ReadInstruction.from_spec(split).to_absolute(numbers)
    wanted = [f"{row}.50" for part in parts for row in range(part.from_, part.to)]
    assert read(tmp_path / "set", split=split) == wanted
    if "%" in split:
        message = refusal(tmp_path / "set", split=split, streaming=True)
        assert "but a stream is read from its start" in message


def test_a_share_of_a_stream_is_refused_whatever_its_files_are(tmp_path):
    folder = write(tmp_path / "set", "train.parquet", "test.parquet")
    assert read(folder, split="train[:1]+test", streaming=True) == ["train.parquet", "test.parquet"]
    message = refusal(folder, split="train[:50%]", streaming=True)
    assert "split: found train[:50%], which is a share of all rows, but a stream" in message


@pytest.mark.parametrize(
    "split", ["all", "train[:50%](pct1_dropremainder)", "train[:3", "dev+test"]
)
def test_no_split_of_text_files_is_left_to_a_reader_that_guesses_types(tmp_path, split):
    message = refusal(write(tmp_path / "set", "train.csv", "test.csv"), split=split)
    assert "expected train or test, or rows of it as in train[100:] or train[:10%]" in message


@pytest.mark.parametrize("name", ["x[1]", "x*", "x?", "x[!a]"])
def test_signs_of_a_pattern_in_a_path_are_part_of_a_name(tmp_path, name):
    write(tmp_path / "set", "x1.parquet", f"{name}.parquet")
    for streaming in (False, True):
        file = tmp_path / "set" / f"{name}.parquet"
        assert read(file, streaming=streaming) == [file.name]
    folder = write(tmp_path / name, "train.jsonl")
    write(tmp_path / "x1", "train.jsonl")
    assert f" in {folder}, which the datasets library takes for a pattern" in refusal(folder)
    assert read(folder / "train.jsonl") == ["train.jsonl"]
