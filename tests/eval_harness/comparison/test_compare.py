"""Comparisons are paired by row, honest about chance, and refuse what cannot be compared."""

import json
import subprocess
import sys

import numpy as np
import pytest
from result_samples import make_results, make_samples, make_task

from eval_harness.comparison.compare import (
    NO_DIFFERENCE,
    compare_loaded,
    compare_systems,
    verdict,
)
from eval_harness.comparison.systems import load_systems
from eval_harness.errors import DistillensError
from eval_harness.results.folder import load_results, write_results
from eval_harness.shared.statistics import PairedComparison

NUM_ROWS = 40
REFERENCES = [[f"the answer to number {index} is here"] for index in range(NUM_ROWS)]


def answers(seed: int, share_right: float) -> list[list[str]]:
    """Answers of two seeds to each row, some of them right."""
    generator = np.random.default_rng(seed)
    return [
        [target[0] if generator.random() < share_right else "the answer" for _ in range(2)]
        for target in REFERENCES
    ]


def save(folder, name: str, texts: list[list[str]], **options) -> str:
    """A results folder of one model with the tasks a and b."""
    tasks = [
        make_task(task, make_samples(texts, references=REFERENCES[: len(texts)]), **options)
        for task in ("a", "b")
    ]
    return str(write_results(make_results(name, *tasks), folder).parent)


def run_compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval_harness", "compare", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def test_a_clear_difference_is_shown_and_a_small_one_is_not(tmp_path):
    folders = [
        save(tmp_path, "good", answers(1, 0.9)),
        save(tmp_path, "similar", answers(2, 0.87)),
        save(tmp_path, "poor", answers(3, 0.1)),
    ]
    done = run_compare(*folders)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.split("\n") if "good - " in line]
    rouge = [line for line in lines if line.strip().startswith("rougeL")]
    # Two tasks, each with similar and poor against good.
    assert [line.endswith(NO_DIFFERENCE) for line in rouge] == [True, False] * 2
    assert all(line.endswith("good scores higher") for line in rouge[1::2])
    assert all("smallest detectable" in line for line in rouge)


def test_json_holds_the_same_numbers_as_a_paired_computation_by_hand(tmp_path):
    a, b = answers(4, 0.7), answers(5, 0.5)
    folders = [save(tmp_path, "a", a), save(tmp_path, "b", b)]
    result = json.loads(run_compare("--json", *folders).stdout)
    found = next(c for c in result["comparisons"] if (c["task"], c["metric"]) == ("a", "rougeL"))
    rows = [
        [np.mean(sample.scores["rougeL"]) for sample in load_results(folder).tasks["a"].samples]
        for folder in folders
    ]
    differences = np.array(rows[0]) - np.array(rows[1])
    assert found["difference"] == pytest.approx(differences.mean())
    error = differences.std(ddof=1) / np.sqrt(NUM_ROWS)
    assert found["low"] == pytest.approx(differences.mean() - 1.96 * error, abs=0.3 * error)
    assert found["high"] == pytest.approx(differences.mean() + 1.96 * error, abs=0.3 * error)
    # Two comparisons by rougeL (one for each task): alpha 0.025, so 2.33 + 0.85 with 39 degrees.
    assert found["smallest_detectable"] == pytest.approx((2.331 + 0.851) * error, rel=0.01)
    assert found["adjusted_p"] == pytest.approx(min(1, 2 * found["p_value"]))
    assert result["systems"]["a"]["tasks"]["a"]["rougeL,none"] == pytest.approx(
        np.mean(rows[0]), abs=1e-4
    )


def test_every_pair_on_request(tmp_path):
    systems = load_systems([save(tmp_path, name, answers(6, 0.5)) for name in "xyz"])
    pairs = {(c.a, c.b) for c in compare_systems(systems)}
    assert pairs == {("x", "y"), ("x", "z")}
    comparisons = compare_systems(systems, all_pairs=True)
    assert {(c.a, c.b) for c in comparisons} == {("x", "y"), ("x", "z"), ("y", "z")}
    assert {c.verdict for c in comparisons} == {NO_DIFFERENCE}


def test_a_verdict_needs_both_the_test_and_the_interval():
    def result(low, high):
        return PairedComparison(
            difference=1.0,
            low=low,
            high=high,
            p_value=0.01,
            exact=False,
            smallest_detectable=1.0,
            num_rows=10,
            num_differing=10,
        )

    assert verdict(result(0.1, 2.0), 0.01, "A", "B") == "A scores higher"
    assert verdict(result(-2.0, -0.1), 0.01, "A", "B") == "B scores higher"
    assert verdict(result(0.1, 2.0), 0.05, "A", "B") == NO_DIFFERENCE
    assert verdict(result(-0.1, 2.0), 0.01, "A", "B") == NO_DIFFERENCE
    assert verdict(result(None, None), 0.01, "A", "B") == NO_DIFFERENCE


def test_rows_are_paired_by_id_whatever_their_order(tmp_path):
    texts = answers(7, 0.5)
    first = save(tmp_path, "first", texts)
    samples = make_samples(texts, references=REFERENCES)
    turned = make_task("a", samples[::-1])
    second = str(write_results(make_results("second", turned), tmp_path).parent)
    comparison, *_ = compare_systems(load_systems([first, second]))
    assert comparison.paired.num_differing == 0


def test_answers_without_scores_are_scored(tmp_path):
    texts = answers(8, 0.5)
    scored = save(tmp_path, "scored", texts)
    samples = make_samples(texts, references=REFERENCES, scored=False)
    bare = str(write_results(make_results("bare", make_task("a", samples)), tmp_path).parent)
    comparison, *_ = compare_systems(load_systems([scored, bare]))
    assert (comparison.metric, comparison.paired.num_differing) == ("rougeL", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"protocol": {"template": "alpaca", "sampling": {"temperature": 0.0}}},
            r"a was run under different protocols: sampling.temperature is 1.0 and 0.0",
        ),
        (
            {"protocol": {"template": "alpaca", "sampling": {"temperature": 1.0}, "top_k": 5}},
            r"different protocols: top_k is not set and 5",
        ),
        ({"data": "d1"}, r"the data of a differ \(d0 and d1\)"),
    ],
)
def test_different_fingerprints_are_refused_by_what_differs(options, message, tmp_path):
    folders = [
        save(tmp_path, "one", answers(9, 0.5)),
        save(tmp_path, "two", answers(9, 0.5), **options),
    ]
    with pytest.raises(DistillensError, match=message):
        load_systems(folders)


def test_different_models_and_versions_are_compared_with_a_note(tmp_path):
    folders = [
        save(tmp_path, "one", answers(9, 0.5)),
        save(tmp_path, "two", answers(9, 0.5), versions={"transformers": "5.25"}),
    ]
    notes = compare_loaded(load_systems(folders)).notes
    assert notes == ["a, b: transformers is 5.24 for one and 5.25 for two"]


def test_different_rows_are_named(tmp_path):
    folders = [
        save(tmp_path, "all", answers(9, 0.5)),
        save(tmp_path, "some", answers(9, 0.5)[:-1], data="d1"),
    ]
    with pytest.raises(DistillensError, match=r"different rows: id 'row-39' only in .*all; run"):
        load_systems(folders)


def test_tasks_that_not_all_systems_have_are_named(tmp_path):
    samples = make_samples(answers(1, 0.5), references=REFERENCES)
    folders = [
        str(write_results(make_results(name, *(make_task(t, samples) for t in tasks)), tmp_path))
        for name, tasks in (("one", "abc"), ("two", "abd"), ("three", "aef"))
    ]
    comparisons = compare_loaded(load_systems(folders))
    assert {found.task for found in comparisons.comparisons} == {"a"}
    assert comparisons.notes == [
        "tasks that not all systems have are not compared: b only of one, two; c only of one; d "
        "only of two; e, f only of three"
    ]
    assert compare_loaded(load_systems(folders[:2])).notes == [
        "tasks that not all systems have are not compared: c only of one; d only of two"
    ]


def test_different_references_are_named(tmp_path):
    other = [*REFERENCES[:3], ["changed"], *REFERENCES[4:]]
    first = save(tmp_path, "first", answers(9, 0.5))
    task = make_task("a", make_samples(answers(9, 0.5), references=other))
    second = str(write_results(make_results("second", task), tmp_path).parent)
    with pytest.raises(DistillensError, match="different references in id 'row-3'"):
        load_systems([first, second])


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = save(tmp_path, "first", answers(1, 0.5))
    with pytest.raises(DistillensError, match="named twice"):
        load_systems([first, first])
    other = make_results("other", make_task("c", make_samples([["x", "y"]])))
    folder = str(write_results(other, tmp_path).parent)
    with pytest.raises(DistillensError, match="no task that all systems have: first has a, b;"):
        load_systems([first, folder])
    other.tasks["c"].samples = []
    other.date += 1
    write_results(other, tmp_path)
    with pytest.raises(DistillensError, match="no samples of c beside it; run with --log_samples"):
        load_systems([folder])
    uneven = make_samples([["x", "y"], ["x", "y"]])
    uneven[1].seeds = [10, 30]
    path = write_results(make_results("uneven", make_task("a", uneven)), tmp_path)
    with pytest.raises(DistillensError, match=r"'row-1' has seeds \[10, 30\], but row 'row-0'"):
        load_systems([path])


def test_equal_model_names_are_told_apart_by_their_paths(tmp_path):
    folders = [save(tmp_path / run, "same", answers(1, 0.5)) for run in ("run1", "run2")]
    assert [system.name for system in load_systems(folders)] == folders


def test_prediction_files_are_compared_on_their_references(shared):
    done = run_compare(
        *(
            str(shared / f"data/predictions/vicuna/{name}-13b.jsonl")
            for name in ("llama", "vicuna")
        ),
        "--references",
        str(shared / "data/bench/vicuna/valid.jsonl"),
    )
    assert done.returncode == 0
    assert "llama-13b: rougeL 18.25 [" in done.stdout
    assert "vicuna-13b scores higher" in done.stdout
    assert "note: prediction files do not record" in done.stdout


def test_mistakes_exit_with_2_in_one_line(tmp_path):
    first = save(tmp_path, "first", answers(1, 0.5))
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text('{"id": "a", "text": "x"}\n')
    for arguments, message in [
        ([first], "at least two systems"),
        ([first, str(tmp_path / "gone")], "no such file or folder"),
        ([first, str(jsonl)], "for prediction files give --references"),
        ([first, str(jsonl), "--references", str(jsonl)], "no key 'output'"),
    ]:
        done = run_compare(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    folders = [save(tmp_path, name, answers(1, 0.5)) for name in ("é\udcff", "b")]
    done = run_compare(*folders)
    assert done.returncode == 0, done.stderr
    assert "é\\udcff: rougeL" in done.stdout
    lines = str(compare_loaded(load_systems(folders))).split("\n")
    assert any(line.strip().startswith("é\udcff: rougeL") for line in lines)
