"""Names of fields: entries of lists, and other names where a row lacks the first."""

import json

import pytest
from judged_rows import MT_BENCH

from eval_harness.benchmarks import find_benchmarks, load_benchmark, load_rows, select_benchmarks
from eval_harness.benchmarks.row_fields import field_names, read_field
from eval_harness.errors import DistillensError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", [1, 2]),
        ("a[1]", 2),
        ("a[2]", None),
        ("b[0]", "text"),
        ("c", None),
        ("c | a[0]", 1),
        ("c[0] | d[0] | b", "text"),
        ("e[0]", 5),
    ],
)
def test_a_name_finds_its_value(name, value):
    assert read_field({"a": [1, 2], "b": "text", "e[0]": 5}, name) == value


def test_all_fields_that_a_name_reads_are_known():
    assert field_names("prompt[0] | turns[0] | text") == ["prompt", "turns", "text"]


@pytest.mark.parametrize("form", ["fastchat", "hub"])
def test_mt_bench_s_rows_are_read_from_both_of_their_forms(tmp_path, form):
    rows = MT_BENCH
    if form == "hub":
        rows = [{"prompt" if k == "turns" else k: v for k, v in row.items()} for row in rows]
    file = tmp_path / "question.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (benchmark,) = select_benchmarks("mt_bench", find_benchmarks(), [f"mt_bench={file}"])
    found = load_rows(benchmark)
    assert [row.row_id for row in found] == ["101", "82", "112"]
    assert [row.instruction for row in found] == [row["turns"][0] for row in MT_BENCH]
    assert [row.references for row in found] == [("You are in second place.",), (), ("12000",)]
    assert all(row.prompt is None for row in found)


def benchmark_of(tmp_path, row: dict, extra: str):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(f"task: mine\npath: rows.jsonl\n{extra}", encoding="utf-8")
    return load_benchmark(file)


@pytest.mark.parametrize(
    ("row", "extra", "references"),
    [
        ({"output": ["a", " "]}, "references: some", ("a",)),
        ({"output": ""}, "references: some", ()),
        ({"output": []}, "references: some", ()),
        ({}, "references: some", ()),
        ({"output": "a"}, "references: none", ()),
    ],
)
def test_rows_may_lack_references_where_the_benchmark_says_so(tmp_path, row, extra, references):
    (found,) = load_rows(benchmark_of(tmp_path, {"instruction": "Do.", **row}, extra))
    assert found.references == references


def test_a_conversation_may_end_with_its_question(tmp_path):
    talk = {"messages": [{"role": "user", "content": "Why?"}]}
    (found,) = load_rows(benchmark_of(tmp_path, talk, "references: some"))
    assert found.conversation is not None
    assert found.references == ()
    with pytest.raises(DistillensError, match="no answer in messages and no output"):
        load_rows(benchmark_of(tmp_path, talk, ""))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("references: few", "references = 'few', expected all, some, none"),
        ("judge_format: mtbench", "judge_format = 'mtbench', expected alpaca_eval, mt_bench"),
        ("references: none\nmetrics: [rougeL]", "'rougeL' is not known without references"),
        ("references: some\nmetrics: [inst_level_strict_acc]", "expected rougeL and exact_match"),
    ],
)
def test_a_faulty_key_is_refused(tmp_path, extra, message):
    with pytest.raises(DistillensError, match=message):
        benchmark_of(tmp_path, {}, extra)


def test_what_is_downloaded_for_judges_is_pinned():
    known = find_benchmarks()
    for name in ("alpaca_eval", "mt_bench", "ifeval"):
        hub = known[name].hub
        assert hub is not None
        assert len(hub.revision) == 40
        assert int(hub.revision, 16)
