"""Every kind of source gives the same rows: compressed, a folder, save_to_disk, renamed columns."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from distillens_plugin.data.rows import RawRow, read_rows
from distillens_plugin.recipe.schema.base import checked
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError

WHERE = "r.yaml: datasets.train"
TEXTS = ["NA", "007", "2024-01-01", " x ", 'say "hi", then', "é\nb"]
ROWS = [{"id": f"r{i}", "instruction": t, "input": "", "output": t} for i, t in enumerate(TEXTS)]
COLUMNS = {"id": "key", "instruction": "question", "input": "context", "output": "answer"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def spec_of(path: Path, **options) -> DatasetSpec:
    return checked(DatasetSpec, {"path": str(path), **options}, lambda at: ".".join(map(str, at)))


def rows_of(path: Path, **options) -> list[RawRow]:
    return list(read_rows(spec_of(path, **options), where=WHERE))


def other_names(row: dict[str, str]) -> dict[str, str]:
    return {COLUMNS[key]: value for key, value in row.items()}


def csv_line(cells: Iterable[Any]) -> str:
    """Each cell is a text, and anything else its JSON."""
    texts = [cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
    return ",".join('"' + text.replace('"', '""') + '"' for text in texts) + "\n"


def written(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """A source of some kind with these rows, as its path."""
    import datasets

    folder.mkdir()
    if kind == "save_to_disk":
        datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
        return folder / "saved"
    if kind == "save_to_disk with splits":
        split = datasets.Dataset.from_list(rows)
        datasets.DatasetDict({"train": split}).save_to_disk(folder / "saved")
        return folder / "saved"
    name = kind.removeprefix("folder of ")
    file = folder / f"train.{name}"
    content = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows, indent=1),
        "csv": csv_line(rows[0]) + "".join(csv_line(row.values()) for row in rows),
    }
    if name == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
    elif name.endswith(".gz"):
        file.write_bytes(gzip.compress(content[name.removesuffix(".gz")].encode()))
    else:
        file.write_text(content[name], encoding="utf-8", newline="")
    return folder if kind.startswith("folder of ") else file


FILES = ["jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz", "parquet"]
KINDS = [*FILES, *(f"folder of {kind}" for kind in FILES)]
KINDS += ["save_to_disk", "save_to_disk with splits"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_rows_with_columns_renamed_or_not(tmp_path, kind):
    expected = [(row["id"], row["instruction"], [row["output"]]) for row in ROWS]
    plain = rows_of(written(tmp_path / "plain", kind, ROWS))
    renamed_rows = [other_names(row) for row in ROWS]
    renamed = rows_of(written(tmp_path / "renamed", kind, renamed_rows), columns=COLUMNS)
    for rows in (plain, renamed):
        assert [(row.id, row.instruction, row.references) for row in rows] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_conversations(tmp_path, kind):
    chat = [{"role": "user", "content": "NA"}, {"role": "assistant", "content": "007\n"}]
    path = written(tmp_path / "set", kind, [{"chat": chat}])
    (row,) = rows_of(path, columns={"messages": "chat"}, template="chat")
    assert row.conversation is not None
    assert row.conversation.to_template() == chat


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_no_row_has_is_refused_with_the_nearest(tmp_path, kind):
    path = written(tmp_path / "set", kind, [other_names(row) for row in ROWS])
    for field, wrong in [("output", "anwser"), ("input", "contxt"), ("instruction", "qestion")]:
        with pytest.raises(DistillensError) as caught:
            rows_of(path, columns={**COLUMNS, field: wrong})
        text = str(caught.value)
        assert text.startswith(f"{WHERE}.columns.{field}: ")
        assert f"did you mean '{COLUMNS[field]}'" in text
        assert "\n" not in text


def test_a_new_name_that_a_row_has_already_is_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"instruction": "a", "question": "b", "output": "c"}))
    with pytest.raises(DistillensError, match=r"rows\.jsonl:1 has a column 'instruction' already"):
        rows_of(file, columns={"instruction": "question"})
    # Unless the other column gets a new name too: then they change places.
    (row,) = rows_of(file, columns={"instruction": "question", "input": "instruction"})
    assert (row.instruction, row.input) == ("b", "a")


def test_optional_columns_may_be_missing_in_some_rows_but_not_in_all(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [{"q": "a", "output": "b"}, {"q": "c", "extra": "d", "output": "e"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"instruction": "q", "input": "extra"}
    assert [row.input for row in rows_of(file, columns=columns)] == ["", "d"]
    with pytest.raises(DistillensError, match="none of the first 1 rows has a column 'extra'"):
        rows_of(file, columns=columns, num_rows=1)
    # Far into a long file nothing is waited for any more.
    file.write_text((json.dumps(lines[0]) + "\n") * 1200 + "no JSON")
    with pytest.raises(DistillensError, match="none of the first 1,000 rows has a column 'extra'"):
        rows_of(file, columns=columns)


def test_a_row_may_have_one_of_two_renamed_tasks(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('q,ready,a\n,Say hi: ,hi\nSay ho.,,""\n')
    first, second = rows_of(file, columns={"instruction": "q", "prompt": "ready", "output": "a"})
    assert (first.prompt, first.instruction, first.references) == ("Say hi: ", None, ["hi"])
    assert (second.prompt, second.instruction, second.references) == (None, "Say ho.", [""])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"instuction": "q"}}, "columns.instuction: found instuction, which no row"),
        ({"columns": {"instuction": "q"}}, "did you mean 'instruction'"),
        ({"columns": {"input": "q", "output": "q"}}, "columns.input: found 'q' twice"),
        ({"columns": {"input": 3}}, "columns.input: found 3, expected text"),
        ({"columns": {"input": "q"}, "generated": True}, "columns: generated answers"),
        ({"shuffle_buffer": 5}, "shuffle_buffer: only a stream has a buffer"),
        ({"streaming": True, "shuffle_buffer": -1}, "shuffle_buffer: found -1, expected"),
    ],
)
def test_unusable_keys_are_refused(options, message):
    with pytest.raises(DistillensError, match=message):
        spec_of(Path("rows.jsonl"), **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"{}", r"a\.jsonl\.gz: not a whole gzip file \(Not a gzipped"),
        ("a.csv.gz", gzip.compress(b"instruction,output\nx,y\n" * 9)[:-12], "not a whole gzip"),
        ("a.json.gz", gzip.compress(b"[{]"), r"a\.json\.gz:1:3: not JSON"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n{]'), r"a\.jsonl\.gz:1: found the keys a"),
        ("a.txt.gz", gzip.compress(b"x"), r"ends in '\.gz', expected .*\.jsonl\.gz"),
    ],
)
def test_faulty_compressed_files_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DistillensError, match=message) as caught:
        rows_of(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_lines_of_a_compressed_file_name_its_rows(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b'\n{"instruction": "a", "output": "b"}\n'))
    assert [row.id for row in rows_of(file)] == ["line 2"]


@pytest.mark.parametrize("split", ["train[1:3]", "train[-2:]", "train[:-4]", "train[9:]"])
def test_a_saved_data_set_has_slices_too(tmp_path, split):
    path = written(tmp_path / "set", "save_to_disk with splits", ROWS)
    first, last = (int(n) if n else None for n in split[6:-1].split(":"))
    wanted = [row["id"] for row in ROWS[slice(first, last)]]
    assert [row.id for row in rows_of(path, split=split)] == wanted


@pytest.mark.parametrize("option", ["name", "data_files", "split"])
def test_options_that_a_saved_data_set_does_not_have_are_refused(tmp_path, option):
    path = written(tmp_path / "set", "save_to_disk", ROWS)
    with pytest.raises(DistillensError, match=rf"{option}: .* was written by save_to_disk, which"):
        rows_of(path, **{option: "train"})
