"""A stream gives the tokens of the same rows read whole, and reads no further than it must."""

import gzip
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from small_tokenizers import byte_level

from distillens_plugin.data import streaming
from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import load_examples
from distillens_plugin.data.rows import FIRST_ROWS
from distillens_plugin.data.stream_loader import StreamLoader
from distillens_plugin.data.streaming import StreamedDataset, shuffled
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError, RunFailure

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
WHERE = "r.yaml: datasets.train"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(QUICKSTART / "tokenizer"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def rows_up_to(num_rows: int) -> list[dict[str, str]]:
    return [
        {"id": f"r{i}", "instruction": f"Add {i} and 1.", "input": "", "output": f"It is {i + 1}."}
        for i in range(num_rows)
    ]


def write(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def spec_of(path: Path, **options) -> DatasetSpec:
    return DatasetSpec(path=str(path), streaming=True, **{"shuffle_buffer": 0, **options})


def stream_of(path: Path, tokenizer, *, seed=1, **options) -> StreamedDataset:
    return StreamedDataset(spec_of(path, **options), tokenizer, where=WHERE, seed=seed)


def ids_of(stream: StreamedDataset, number: int, *share: int) -> list[str]:
    return [example["id"] for example in islice(stream.examples(*share), number)]


def loader_of(stream: StreamedDataset, *, batch_size=2) -> StreamLoader:
    return StreamLoader(
        stream,
        batch_size=batch_size,
        collate_fn=collate,
        batches_per_epoch=3,
        accelerator=Accelerator(cpu=True),
    )


def source(folder: Path, kind: str) -> Path:
    import datasets

    rows = [json.loads(line) for line in (QUICKSTART / "train.jsonl").open(encoding="utf-8")][:40]
    rows[7]["output"] = ""
    made = datasets.Dataset.from_list(rows)
    folder.mkdir()
    if kind == "jsonl.gz":
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "train.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    elif kind == "save_to_disk":
        made.save_to_disk(folder)
        return folder
    elif kind.endswith("parquet"):
        made.to_parquet(folder / "train.parquet")
    elif kind == "csv":
        made.to_csv(folder / "train.csv", index=False)
    else:
        write(folder / "train.jsonl", rows)
    return folder if kind.startswith("folder") else next(folder.iterdir())


SOURCES = ["jsonl", "jsonl.gz", "csv", "parquet", "folder of jsonl", "folder of parquet"]


@pytest.mark.parametrize("kind", [*SOURCES, "save_to_disk"])
@pytest.mark.parametrize("long_prompts", ["drop", "cut"])
def test_the_items_are_those_of_the_same_rows_read_whole(tmp_path, tokenizer, kind, long_prompts):
    path = source(tmp_path / "set", kind)
    options = {"max_length": 200, "max_prompt_length": 160, "long_prompts": long_prompts}
    whole = load_examples(DatasetSpec(path=str(path), **options), tokenizer, where=WHERE)
    stream = stream_of(path, tokenizer, **options)
    found = list(islice(stream, 2 * len(whole)))
    expected = [whole[index] for index in range(len(whole))]
    assert found == expected * 2
    assert 10 < len(whole) < 40


def test_conversations_are_streamed_beside_tasks(tmp_path):
    tokenizer = byte_level()
    turns = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    path = write(tmp_path / "rows.jsonl", [*rows_up_to(3), {"messages": messages}, *rows_up_to(2)])
    spec = DatasetSpec(path=str(path), template="chat")
    whole = load_examples(spec, tokenizer, where=WHERE)
    stream = stream_of(path, tokenizer, template="chat")
    assert list(islice(stream, 6)) == [whole[index] for index in range(6)]


def test_a_stream_keeps_nothing_of_a_parquet_file_on_disk(tmp_path, tokenizer, cache):
    path = source(tmp_path / "set", "parquet")
    list(islice(stream_of(path, tokenizer), 50))
    assert not list(cache.rglob("*.arrow"))


def test_a_malformed_tail_is_not_reached_until_its_turn(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", rows_up_to(FIRST_ROWS + 500), tail='{"instruction"')
    with pytest.raises(DistillensError, match=rf"rows\.jsonl:{FIRST_ROWS + 501}:"):
        load_examples(DatasetSpec(path=str(path)), tokenizer, where=WHERE)
    stream = stream_of(path, tokenizer, shuffle_buffer=100)
    examples = stream.examples()
    assert len(list(islice(examples, FIRST_ROWS + 300))) == FIRST_ROWS + 300
    assert stream.counts.read < FIRST_ROWS + 350
    with pytest.raises(RunFailure, match=rf"rows\.jsonl:{FIRST_ROWS + 501}:"):
        list(islice(examples, 500))


def test_a_source_that_breaks_off_ends_the_run_and_names_the_row(tmp_path, tokenizer):
    import datasets

    (tmp_path / "set").mkdir()
    made = datasets.Dataset.from_list(rows_up_to(1500))
    for part in range(2):
        made.to_parquet(tmp_path / "set" / f"train-{part}.parquet")
    broken = tmp_path / "set" / "train-1.parquet"
    content = broken.read_bytes()
    broken.write_bytes(
        content[:100] + bytes(len(content) // 2) + content[100 + len(content) // 2 :]
    )
    examples = stream_of(tmp_path / "set", tokenizer).examples()
    assert len(list(islice(examples, 1400))) == 1400
    with pytest.raises(RunFailure, match=r"set row 1500: cannot be read on: ") as caught:
        list(islice(examples, 200))
    assert "\n" not in str(caught.value)


def test_each_pass_has_its_own_order_which_the_seed_fixes(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", rows_up_to(50))
    ids = ids_of(stream_of(path, tokenizer, shuffle_buffer=20), 150)
    assert ids == ids_of(stream_of(path, tokenizer, shuffle_buffer=20), 150)
    passes = [ids[start : start + 50] for start in (0, 50, 100)]
    assert all(sorted(each) == sorted(row["id"] for row in rows_up_to(50)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3
    assert ids != ids_of(stream_of(path, tokenizer, shuffle_buffer=20, seed=2), 150)


@pytest.mark.parametrize("buffer_size", [0, 1, 7, 40, 100])
def test_a_buffer_moves_no_row_forward_by_more_than_its_size(buffer_size):
    found = list(shuffled(range(40), buffer_size, random.Random(3)))
    assert sorted(found) == list(range(40))
    assert (found == list(range(40))) == (buffer_size < 2)
    assert all(item - place <= buffer_size for place, item in enumerate(found))


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_the_rows_of_every_step(tmp_path, tokenizer, num_processes):
    path = write(tmp_path / "rows.jsonl", rows_up_to(24))
    whole = ids_of(stream_of(path, tokenizer, shuffle_buffer=9), 24)
    shares = [
        ids_of(
            stream_of(path, tokenizer, shuffle_buffer=9), 24 // num_processes, index, num_processes
        )
        for index in range(num_processes)
    ]
    assert [row for step in zip(*shares, strict=True) for row in step] == whole


def test_a_process_without_a_row_is_refused_instead_of_waiting_for_ever(tmp_path, tokenizer):
    stream = stream_of(write(tmp_path / "rows.jsonl", rows_up_to(2)), tokenizer)
    with pytest.raises(DistillensError, match="no row for process 2 of 3; use fewer processes"):
        ids_of(stream, 1, 2, 3)


def test_first_rows_without_a_supervised_token_are_refused(tmp_path, tokenizer):
    rows = [{**row, "output": ""} for row in rows_up_to(3)]
    with pytest.raises(DistillensError, match="nothing is supervised"):
        stream_of(write(tmp_path / "rows.jsonl", rows), tokenizer)


def test_counts_grow_with_what_was_read(tmp_path, tokenizer):
    rows = rows_up_to(40)
    rows[3]["output"] = ""
    stream = stream_of(write(tmp_path / "rows.jsonl", rows), tokenizer)
    assert "40 rows read, 39 kept" in stream.describe()
    assert "streamed: these are the first 40 rows, all are read in order" in stream.describe()
    supervised = sum(len(e["labels"]) - e["labels"].count(-100) for e in islice(stream, 78))
    assert "80 rows read, 78 kept" in stream.describe()
    assert f"{supervised} of " in stream.describe()
    assert stream.describe().endswith("streamed: so far, by one process")


def test_newline_marks_are_told_once_and_not_in_every_pass(tmp_path, tokenizer, capsys):
    rows = [{"prompt": f"Say<n>{i}:", "output": "yes"} for i in range(3)]
    stream = stream_of(write(tmp_path / "rows.jsonl", rows), tokenizer)
    assert capsys.readouterr().err.count("3 ready prompts of") == 1
    assert len(list(islice(stream, 9))) == 9
    assert capsys.readouterr().err == ""


def test_an_epoch_goes_on_where_the_last_one_ended(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", rows_up_to(7))
    loader = loader_of(stream_of(path, tokenizer))
    epochs = [[row for _, targets in loader for row in targets["row_ids"]] for _ in range(2)]
    assert epochs == [[f"r{i}" for i in range(6)], ["r6", "r0", "r1", "r2", "r3", "r4"]]
    assert len(loader) == 3


@pytest.mark.parametrize(("changed", "is_same"), [(None, True), (2, False), (5, True)])
def test_a_stream_read_again_is_compared_up_to_where_it_stood(
    tmp_path, tokenizer, changed, is_same
):
    path = write(tmp_path / "rows.jsonl", rows_up_to(6))
    first = loader_of(stream_of(path, tokenizer), batch_size=1)
    assert len(list(first)) == 3
    rows = rows_up_to(6)
    if changed is not None:
        rows[changed]["output"] = "Something else."
    again = loader_of(stream_of(write(path, rows), tokenizer), batch_size=1)
    assert again.read_again(first.state()) is is_same
    if is_same:
        following = [targets["row_ids"] for _, targets in again]
        assert following == [["r3"], ["r4"], ["r5"]]


def test_a_malformed_row_that_is_read_again_is_a_mistake_of_the_start(
    tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(streaming, "FIRST_ROWS", 2)
    path = write(tmp_path / "rows.jsonl", rows_up_to(6))
    first = loader_of(stream_of(path, tokenizer))
    assert len(list(first)) == 3
    write(path, rows_up_to(5), tail="no JSON")
    with pytest.raises(DistillensError, match=r"rows\.jsonl:6:1: ") as again:
        loader_of(stream_of(path, tokenizer)).read_again(first.state())
    with pytest.raises(RunFailure) as in_training:
        list(loader_of(stream_of(path, tokenizer)))
    assert (again.value.exit_code, in_training.value.exit_code) == (2, 1)
    assert str(again.value) == str(in_training.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_slices_count_from_the_start(tmp_path, tokenizer, kind):
    path = source(tmp_path / "set", f"folder of {kind}")
    whole = load_examples(DatasetSpec(path=str(path), split="train[2:5]"), tokenizer, where=WHERE)
    stream = stream_of(path, tokenizer, split="train[2:5]")
    assert list(islice(stream, 3)) == [whole[index] for index in range(3)]
    limited = stream_of(path, tokenizer, split="train[2:5]", num_rows=2)
    assert list(islice(limited, 3)) == [whole[index] for index in (0, 1, 0)]
    with pytest.raises(DistillensError, match=r"split: found train\[-2:\], which counts from the"):
        stream_of(path, tokenizer, split="train[-2:]")


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_a_json_array_is_refused_and_json_lines_under_its_name_are_not(tmp_path, tokenizer, name):
    def written(text: str) -> Path:
        packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (tmp_path / name).write_bytes(packed)
        return tmp_path / name

    with pytest.raises(DistillensError, match="is one JSON array, which can only be read whole"):
        stream_of(written("\n " + json.dumps(rows_up_to(2))), tokenizer)
    lines = "".join(json.dumps(row) + "\n" for row in rows_up_to(2))
    assert ids_of(stream_of(written("\n " + lines), tokenizer), 3) == ["r0", "r1", "r0"]
