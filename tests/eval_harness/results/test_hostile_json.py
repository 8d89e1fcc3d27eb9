"""Files that are not ours, or no longer: refused in one line or fine, and nothing is written.

The suite tries a few of each; `DISTILLENS_HOSTILE_CASES=700 pytest
tests/eval_harness/results/test_hostile_json.py` tries as many as you like.
"""

import json
import os

import pytest
from hostile_json import mutated
from lm_eval_results import lm_eval_sample, save_lm_eval
from result_samples import make_results, make_samples, make_task

from eval_harness.cli import main
from eval_harness.errors import DistillensError
from eval_harness.generation.store import AnswerStore
from eval_harness.results.file_models import AnswerRow
from eval_harness.results.folder import write_results

ASKED = os.environ.get("DISTILLENS_HOSTILE_CASES")
SEED = 20261126


def num_cases(in_suite: int) -> int:
    return int(ASKED) if ASKED else in_suite


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def fault_of(code: int, said: str, folder: str) -> str:
    """What is wrong with how a command ended; "" where nothing is."""
    if code == 0:
        return ""
    if code != 2:
        return f"exit code {code}: {said[:300]}"
    if said.count("\n") != 1 or len(said) >= 1000:
        return f"{said.count(chr(10))} lines, {len(said)} characters: {said[:300]}"
    # The file itself, or both folders where it is their difference that is wrong.
    return "" if folder in said else f"names no file: {said[:300]}"


def write_systems(folder, num_rows=3):
    for name, texts in (("one", "the answer"), ("two", "number answer")):
        samples = make_samples([[texts, f"{texts} {row}"] for row in range(num_rows)])
        for sample in samples:
            sample.extra = {"reference_nll": [1.5], "reference_tokens": [3]}
        tasks = [make_task(task, samples) for task in ("a", "b")]
        for task in tasks:
            task.config["metrics"] = ["rougeL", "exact_match", "final_answer"]
            task.metrics |= {"nll,none": 1.5, "nll_stderr,none": 0.1, "perplexity,none": 4.48}
        write_results(make_results(name, *tasks), folder)
    return folder / "one", folder / "two"


def outcomes(command, target, capsys, count, tmp_path):
    """Writes variants of a file in its place; runs the command on each; the faults found."""
    whole = target.read_bytes()
    if target.suffix == ".json":
        lines = [json.dumps(json.loads(whole)).encode()]
    else:
        lines = whole.rstrip(b"\n").split(b"\n")
    faults, codes = [], {0: 0, 2: 0}
    for name, content in mutated(lines, count, seed=SEED):
        target.write_bytes(content)
        before = snapshot(tmp_path)
        code = command()
        fault = fault_of(code, capsys.readouterr().err, str(tmp_path))
        if not fault and code == 2 and snapshot(tmp_path) != before:
            fault = "something was written"
        if fault:
            faults.append(f"{target.name}, {name}: {fault}")
        codes[code] = codes.get(code, 0) + 1
    target.write_bytes(whole)
    return faults, codes


@pytest.mark.parametrize("pattern", ["results_*.json", "samples_a_*.jsonl"])
def test_compare_with_hostile_results(tmp_path, capsys, pattern):
    one, two = write_systems(tmp_path)
    (target,) = two.glob(pattern)
    command = lambda: main(["compare", str(one), str(two)])  # noqa: E731
    faults, codes = outcomes(command, target, capsys, num_cases(75), tmp_path)
    assert faults == []
    assert codes[2] > codes[0] > 0


@pytest.mark.parametrize("pattern", ["m/results_*.json", "m/samples_arc_*.jsonl"])
def test_compare_with_hostile_results_of_lm_eval(tmp_path, capsys, pattern):
    rows = [lm_eval_sample(row, "x", acc=float(row % 2)) for row in range(4)]
    one, two = (save_lm_eval(tmp_path / name, rows) for name in ("one", "two"))
    (target,) = two.glob(pattern)
    command = lambda: main(["compare", str(one), str(two)])  # noqa: E731
    faults, codes = outcomes(command, target, capsys, num_cases(60), tmp_path)
    assert faults == []
    assert codes[2] > 0
    assert codes[0] > 0


@pytest.mark.parametrize("pattern", ["results_*.json", "samples_a_*.jsonl"])
def test_a_report_of_hostile_results(tmp_path, capsys, pattern):
    pytest.importorskip("matplotlib", reason="reports are drawn with matplotlib")
    one, two = write_systems(tmp_path)
    (target,) = one.glob(pattern)

    def command():
        return main(["report", str(one), str(two), "--output_path", str(tmp_path / "report")])

    faults, codes = outcomes(command, target, capsys, num_cases(12), tmp_path)
    assert faults == []
    assert codes[2] > 0


def test_score_of_hostile_predictions_and_references(tmp_path, capsys):
    rows = [{"id": f"r{row}", "text": f"answer {row}"} for row in range(4)]
    expected = [{"id": f"r{row}", "output": [f"answer {row}", "x"]} for row in range(4)]
    predictions, references = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    for path, content in ((predictions, rows), (references, expected)):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    files = ["--predictions", str(predictions), "--references", str(references)]
    for target in (predictions, references):
        command = lambda: main(["score", *files])  # noqa: E731
        faults, codes = outcomes(command, target, capsys, num_cases(75), tmp_path)
        assert faults == []
        assert codes[2] > 0


def test_compare_of_hostile_predictions(tmp_path, capsys):
    expected = [{"id": row, "instruction": "q", "output": f"answer {row}"} for row in range(4)]
    references = tmp_path / "r.jsonl"
    references.write_text("".join(json.dumps(row) + "\n" for row in expected))
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in files:
        rows = [{"id": row, "text": f"{path.stem} {row}"} for row in range(4)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command():
        return main(["compare", *map(str, files), "--references", str(references)])

    for target in (references, files[1]):
        assert outcomes(command, target, capsys, num_cases(40), tmp_path)[0] == []


def test_hostile_answer_stores(tmp_path):
    """The store that an evaluation opens; a torn last line, which kills leave, is dropped."""
    path = tmp_path / "answers.jsonl"
    settings = {"model": "m", "sampling": {"temperature": 1.0}}
    store = AnswerStore(path, settings, AnswerRow)
    for row in range(4):
        answer = {"text": f"answer {row}", "num_tokens": row, "finish_reason": "stop"}
        store.add((str(row), "10", "d"), answer)
    store.close()
    whole = path.read_bytes()
    lines = whole.rstrip(b"\n").split(b"\n")
    faults, num_refused = [], 0
    for name, content in mutated(lines, num_cases(250), seed=SEED):
        path.write_bytes(content)
        refusal = refusal_of(path, settings)
        after = path.read_bytes()
        if refusal is not None:
            num_refused += 1
            if not refusal.startswith(f"{path}:") or after != content:
                faults.append(f"{name}: {refusal}")
        elif not content.startswith(after) and after != lines[0] + b"\n":
            faults.append(f"{name}: left as {after!r}")
    assert faults == []
    assert num_refused > 0


def refusal_of(path, settings) -> str | None:
    """Opens a store; None where it may be used."""
    try:
        store = AnswerStore(path, settings, AnswerRow)
    except DistillensError as error:
        return str(error) if error.exit_code == 2 else f"exit code {error.exit_code}"
    for answer in store.rows.values():
        AnswerRow.model_validate(answer)
    store.close()
    return None


def test_hostile_benchmark_rows(tmp_path, capsys):
    rows = [
        {"id": f"r{row}", "instruction": "do", "input": "", "output": ["a"], "more": {"x": [0.5]}}
        for row in range(4)
    ]
    target = tmp_path / "rows.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text("task: own\npath: rows.jsonl\n")
    command = lambda: main(["validate", "--tasks", str(tmp_path / "task.yaml")])  # noqa: E731
    faults, codes = outcomes(command, target, capsys, num_cases(100), tmp_path)
    assert faults == []
    assert codes[2] > 0


def test_the_same_seed_gives_the_same_cases():
    lines = [b'{"a": [1, {"b": "x"}]}']
    assert list(mutated(lines, 50, seed=1)) == list(mutated(lines, 50, seed=1))
