"""Benchmark files and rows: what is shipped, what is refused, and where the fault is."""

import json
from pathlib import Path

import pytest

from eval_harness.benchmarks import (
    data_digest,
    find_benchmarks,
    load_benchmark,
    load_rows,
    select_benchmarks,
)
from eval_harness.errors import DistillensError


def benchmark_of(tmp_path: Path, content: bytes, extra: str = ""):
    (tmp_path / "rows.jsonl").write_bytes(content)
    file = tmp_path / "mine.yaml"
    file.write_text(f"task: mine\npath: rows.jsonl\n{extra}", encoding="utf-8")
    return load_benchmark(file)


def line(**row) -> bytes:
    return (
        json.dumps({"instruction": "Do.", "input": "", "output": "Done.", **row}).encode() + b"\n"
    )


def test_shipped_benchmarks_are_the_protocol_s():
    protocol = {"dolly", "self_inst", "vicuna", "sinst", "uinst", "gsm8k"}
    assert set(find_benchmarks()) == protocol | {"alpaca_eval", "mt_bench", "ifeval"}


def test_all_but_gsm8k_name_their_place_on_the_hub():
    for name, benchmark in find_benchmarks().items():
        assert (benchmark.hub is None) == (name == "gsm8k")


def test_gsm8k_is_shipped_whole_with_its_answers():
    rows = load_rows(find_benchmarks()["gsm8k"])
    assert len(rows) == 1319
    assert all("####" in row.references[0] for row in rows)


def test_rows_in_shared_are_read_from_a_folder(shared):
    known = find_benchmarks()
    entry = f"self_inst={shared / 'data/bench/self_inst'}"
    (benchmark,) = select_benchmarks("self_inst", known, [entry])
    assert len(load_rows(benchmark)) == 252


def test_references_are_a_string_or_a_list(tmp_path):
    rows = load_rows(benchmark_of(tmp_path, line(output="a") + line(output=["a", "b"])))
    assert [row.references for row in rows] == [("a",), ("a", "b")]


def test_empty_references_beside_others_are_left_out(tmp_path):
    content = line(output=["", "a", " "]) + line(output="") + line(output=["", ""])
    rows = load_rows(benchmark_of(tmp_path, content))
    assert [row.references for row in rows] == [("a",), ("",), ("", "")]


def test_newline_marks_are_read_in_every_text_where_the_benchmark_has_them(tmp_path):
    content = line(instruction="a<n>b", input="c<n>d", output=["e<n>f"]) + line(
        instruction=None, prompt="g<n>h"
    )
    plain = load_rows(benchmark_of(tmp_path, content))
    assert (plain[0].instruction, plain[0].references) == ("a<n>b", ("e<n>f",))
    read = load_rows(benchmark_of(tmp_path, content, 'newline: "<n>"\n'))
    assert (read[0].instruction, read[0].input) == ("a\nb", "c\nd")
    assert (read[0].references, read[1].prompt) == (("e\nf",), "g\nh")
    assert data_digest(plain) != data_digest(read)


def test_minillm_s_data_sets_write_newlines_in_their_own_way():
    marks = {name: benchmark.newline for name, benchmark in find_benchmarks().items()}
    others = ("gsm8k", "alpaca_eval", "mt_bench", "ifeval")
    assert [marks.pop(name) for name in others] == [None] * 4
    assert set(marks.values()) == {"<n>"}


def test_rows_without_an_id_are_named_by_their_index(tmp_path):
    rows = load_rows(benchmark_of(tmp_path, line() + line(id="x") + line(id=7)))
    assert [row.row_id for row in rows] == ["0", "x", "7"]


def test_a_ready_prompt_counts_only_without_an_instruction(tmp_path):
    content = line(prompt="P") + json.dumps({"prompt": "P", "output": "x"}).encode()
    rows = load_rows(benchmark_of(tmp_path, content))
    assert [row.prompt for row in rows] == [None, "P"]


def test_other_field_names_are_mapped(tmp_path):
    content = json.dumps({"question": "Q", "answer": "A", "n": 3}).encode()
    extra = "fields: {instruction: question, output: answer, id: n}\n"
    (row,) = load_rows(benchmark_of(tmp_path, content, extra))
    assert (row.instruction, row.references, row.row_id) == ("Q", ("A",), "3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line() + b'{"instruction": 1}\n', "rows.jsonl:2: instruction is int, expected a string"),
        (line() + b'{"output": "x"}\n', "rows.jsonl:2: neither 'instruction' nor 'prompt'"),
        (line(output=[]), "rows.jsonl:1: output is an empty list, expected at least one reference"),
        (line(output=[1]), r"rows.jsonl:1: output = \[1\], expected a string or a list"),
        (line(output=0), "rows.jsonl:1: output = 0, expected a string or a list"),
        (line(output=False), "rows.jsonl:1: output = False, expected a string or a list"),
        (line(output={}), "rows.jsonl:1: output = {}, expected a string or a list"),
        (line(output=None), "rows.jsonl:1: output = None, expected a string or a list"),
        (line(id="a") + line(id="a"), "rows.jsonl:2: id 'a' is also on line 1"),
        (line(id=1.5), "rows.jsonl:1: id = 1.5, expected a string or an integer"),
        (line(id=True), "rows.jsonl:1: id = True, expected a string or an integer"),
        (line(id=["a"]), r"rows.jsonl:1: id = \['a'\], expected a string or an integer"),
        (line(id=None) + line(id=0), "rows.jsonl:2: id '0' is also on line 1.* gets its index"),
        (line(id="1") + line(id=1), "rows.jsonl:2: id '1' is also on line 1"),
        (line(x=[1]).replace(b"[1]", b"[1e999]"), r"rows.jsonl:1:\d+: 1e999 is too large"),
        (line() + b"{broken\n", "rows.jsonl:2:2: not JSON"),
        (b"", "rows.jsonl: holds no rows"),
    ],
)
def test_a_faulty_row_is_named_by_file_and_line(tmp_path, content, message):
    with pytest.raises(DistillensError, match=message):
        load_rows(benchmark_of(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: a\npaht: x\n", "key 'paht' is not known.*did you mean 'path'"),
        ("task: a\n", "neither path nor hub"),
        ("path: x\n", "task = None"),
        ("task: a,b\npath: x\n", "expected a name without space, comma or /"),
        ("task: a\npath: [x]\n", "path = .* is list, expected str"),
        ("task: a\nhub: {repo: r}\n", "expected repo and file"),
        ("task: a\nhub: {repo: r, file: f, branch: b}\n", "hub.branch is not known"),
        ("task: a\npath: x\nmetrics: [rouge]\n", "metric 'rouge' is not known.*rougeL"),
        ("task: a\npath: x\ntemplate: alpac\n", "did you mean 'alpaca'"),
        ("task: a\npath: x\nfields: {question: q}\n", "fields.question is not known"),
        ("task: a\npath: x\nnewline: 3\n", "newline = 3 is int, expected str"),
        ("task: a\npath: x\nnewline: ' '\n", "newline = ' ', expected a mark"),
        ("- a\n", "expected a mapping"),
        ("task: [\n", "not YAML"),
    ],
)
def test_a_faulty_benchmark_file_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DistillensError, match=message):
        load_benchmark(file)


def test_unknown_tasks_get_near_names():
    with pytest.raises(DistillensError, match=r"--tasks self_instr: .*did you mean 'self_inst'"):
        select_benchmarks("self_instr", find_benchmarks())


@pytest.mark.parametrize(
    ("tasks", "data", "message"),
    [
        ("", [], "--tasks is empty"),
        ("vicuna,vicuna", [], "vicuna is named twice"),
        ("vicuna", ["vicunna=x"], "expected TASK=PATH.*did you mean 'vicuna'"),
        ("vicuna", ["vicuna=/nowhere"], "not found, expected a JSONL file or a folder"),
    ],
)
def test_wrong_task_lists_are_refused(tasks, data, message):
    with pytest.raises(DistillensError, match=message):
        select_benchmarks(tasks, find_benchmarks(), data)


def test_include_path_adds_and_replaces(tmp_path):
    for name in ("vicuna", "mine"):
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\npath: x.jsonl\n", encoding="utf-8")
    found = find_benchmarks(tmp_path)
    assert found["vicuna"].path == tmp_path / "x.jsonl"
    assert "mine" in found
    assert "dolly" in found


def test_include_path_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(DistillensError, match=r"no \*\.yaml in it"):
        find_benchmarks(tmp_path)


def test_two_files_with_one_task_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("task: same\npath: x\n", encoding="utf-8")
    with pytest.raises(DistillensError, match="task 'same' is also defined in"):
        find_benchmarks(tmp_path)


def test_hub_data_that_cannot_be_had_names_the_local_option():
    with pytest.raises(DistillensError, match="give a local copy with --data vicuna=PATH"):
        load_rows(find_benchmarks()["vicuna"])


def test_the_digest_follows_the_data(tmp_path):
    one = data_digest(load_rows(benchmark_of(tmp_path, line(output="a"))))
    same = data_digest(load_rows(benchmark_of(tmp_path, line(output=["a"], source="new"))))
    other = data_digest(load_rows(benchmark_of(tmp_path, line(output="b"))))
    assert one == same != other
