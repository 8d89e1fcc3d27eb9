"""Rows of CSV, JSON, Parquet and folders: every text as it stands, faults by file and line."""

import gzip
import json
from pathlib import Path

import pytest

from distillens_plugin.data.rows import RawRow, read_rows
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError

# What pandas and Arrow take for missing values, numbers, booleans and dates.
ODD = ["NA", "N/A", "None", "null", "nan", "NaN", "007", "1e5", "42", "True", "false", "-inf"]
ODD += ["2024-01-01", "2024-01-01T10:00:00", "12:30", " x ", "a\nb", 'say "hi", then go', "é<n>"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(path: Path, **options) -> list[RawRow]:
    return list(read_rows(DatasetSpec(path=str(path), **options), where="r.yaml: datasets.train"))


def csv_text(cells: list[list[str]]) -> str:
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return "".join(",".join(row) + "\r\n" for row in quoted)


def written(path: Path) -> Path:
    """A file of one row for each odd text, which is its instruction, input and output."""
    rows = [{"instruction": text, "input": text, "output": text} for text in ODD]
    if path.suffix == ".csv":
        path.write_bytes(csv_text([list(rows[0]), *[list(row.values()) for row in rows]]).encode())
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("place", ["file", "folder", "file of a folder"])
def test_texts_stay_as_they_are(tmp_path, suffix, place):
    folder = tmp_path / "set"
    folder.mkdir()
    file = written(folder / f"train{suffix}")
    if place == "file":
        rows = rows_of(file)
    else:
        rows = rows_of(folder, data_files=file.name if place == "file of a folder" else None)
    assert [row.instruction for row in rows] == ODD
    assert [row.input for row in rows] == ODD
    assert [row.references for row in rows] == [[text] for text in ODD]


def test_a_csv_column_of_integers_is_text_and_unquoted_cells_are_too(tmp_path):
    file = tmp_path / "rows.csv"
    lines = [
        "id,instruction,input,output",
        "007,6 * 7?,,42",
        "008,6 * 8?,NA,48",
        "",
        ",null?,,null",
    ]
    file.write_text("\n".join(lines))
    rows = rows_of(file)
    assert [row.references for row in rows] == [["42"], ["48"], ["null"]]
    assert [row.input for row in rows] == ["", "NA", ""]
    # A cell cannot be null: an empty id is none.
    assert [row.id for row in rows] == ["007", "008", "row 2"]


def test_an_empty_cell_of_an_instruction_leaves_the_word_to_the_ready_prompt(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('instruction,prompt,output\n,Say hi: ,hi\nSay ho.,,""\n')
    first, second = rows_of(file)
    assert (first.prompt, first.instruction) == ("Say hi: ", None)
    assert (second.prompt, second.instruction, second.references) == (None, "Say ho.", [""])


def test_long_cells_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("\ufeffinstruction,output\nx," + "y" * 200_000 + "\n", encoding="utf-8")
    assert rows_of(file)[0].references == ["y" * 200_000]


def test_slices_and_splits_of_a_folder_of_csv_files(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train", "validation"):
        (folder / f"{name}.csv").write_text(
            "instruction,output\n" + "".join(f"{name} {i},NA\n" for i in range(5))
        )
    for split, numbers in [("train[2:]", [2, 3, 4]), ("train[:2]", [0, 1]), ("train[-1:]", [4])]:
        rows = rows_of(folder, split=split)
        assert [row.instruction for row in rows] == [f"train {number}" for number in numbers]
    assert rows_of(folder, split="validation", num_rows=1)[0].instruction == "validation 0"
    with pytest.raises(DistillensError, match="does it have the split 'test'"):
        rows_of(folder, split="test")


def test_csv_that_only_the_datasets_library_opens_loses_no_text_either(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    content = b"instruction,input,output\nx,N/A,null\ny,,NA\n"
    (folder / "train.csv.gz").write_bytes(gzip.compress(content))
    rows = rows_of(folder)
    assert [(row.input, row.references) for row in rows] == [("N/A", ["null"]), ("", ["NA"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"instruction,output\nx\n", r"a\.csv:2: found 1 cells, expected 2"),
        ("a.csv", b"instruction,output\nx,y,z\n", r"a\.csv:2: found 3 cells, expected 2"),
        ("a.csv", b'instruction,output\n"x\ny",z\nx,"y\n', r"a\.csv:4: not CSV: unexpected end"),
        ("a.csv", b"instruction,output,output\nx,y,z\n", r"a\.csv:1: the column 'output' app"),
        ("a.csv", b"instruction,output\n\xff,y\n", r"a\.csv: after line .*byte 0xff is not UTF-8"),
        ("a.csv", b"instruction,output\n", r"a\.csv: holds no rows"),
        ("a.csv", b"", r"a\.csv: holds no rows"),
        ("a.csv", b"instruction;output\nx;y\n", r"a\.csv:2: found the keys instruction;output"),
        ("a.json", b"[]", r"a\.json: holds no rows"),
        ("a.json", b"[1]", r"a\.json row 0: found a JSON number, expected an object"),
        ("a.json", b"[\n{]", r"a\.json:2:2: not JSON"),
        ("a.json", b'[{"instruction": "x", "output": NaN}]', "NaN is not a JSON number"),
        ("a.json", b"[" * 100_000, "not readable as JSON"),
        ("a.json", b"[\xff", "byte 1 is not UTF-8"),
        ("a.json", b"\xff", r"a\.json:1:1: byte 0xff is not UTF-8"),
        ("a.json", b'[{"instruction": "x", "output": 0}]', r"a\.json row 0: output is 0, expected"),
        ("a.json", b'[{"instruction": "x", "output": true}]', "row 0: output is True, expected"),
        ("a.json", b'{"instruction": "x"}', r"a\.json:1: found the keys instruction; expected"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DistillensError, match=message) as caught:
        rows_of(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_parquet_file_are_refused_and_null_is_an_empty_response(tmp_path):
    import pandas

    rows = {"instruction": ["x", "y"], "output": [None, "z"]}
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert [row.references for row in rows_of(tmp_path / "a.parquet")] == [[""], ["z"]]
    pandas.DataFrame({"instruction": ["x"], "output": [0]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DistillensError, match=r"b\.parquet row 0: output is 0, expected a text"):
        rows_of(tmp_path / "b.parquet")


def test_newline_marks_are_text_unless_the_recipe_names_them(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    lines = [
        {"instruction": "Vec<n>", "input": "a<n>b", "output": ["c<n>d"]},
        {"prompt": "Say<n>hi:", "output": "e<n>f"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = rows_of(file)
    assert (first.instruction, first.input, first.references) == ("Vec<n>", "a<n>b", ["c<n>d"])
    assert (second.prompt, second.references) == ("Say<n>hi:", ["e<n>f"])
    note = capsys.readouterr().err
    assert "datasets.train: 1 ready prompts of" in note
    assert 'set newline: "<n>"' in note
    first, second = rows_of(file, newline="<n>")
    assert (first.instruction, first.input, first.references) == ("Vec\n", "a\nb", ["c\nd"])
    assert (second.prompt, second.references) == ("Say\nhi:", ["e\nf"])
    assert capsys.readouterr().err == ""


def test_a_parquet_file_that_is_none_says_so(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_text("nope", encoding="utf-8")
    with pytest.raises(
        DistillensError, match=r"cannot be loaded: .*is it a whole Parquet file"
    ) as e:
        list(read_rows(DatasetSpec(path=str(path)), where="r.yaml: datasets.train"))
    assert "\n" not in str(e.value)
