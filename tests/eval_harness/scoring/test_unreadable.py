"""Answers and references without one final number are counted and told, not guessed."""

import json

from result_samples import make_results, make_samples, make_task

from eval_harness import score
from eval_harness.comparison.compare import compare_loaded
from eval_harness.comparison.systems import load_systems
from eval_harness.results.folder import load_results, write_results
from eval_harness.scoring.score import score_samples
from eval_harness.scoring.task_metrics import task_metrics
from eval_harness.scoring.unreadable import (
    unreadable_answers_note,
    unreadable_counts,
    unreadable_references_note,
)

REFERENCES = [["#### 5"], ["none"], ["none", "#### 5"], ["#### 5-7"]]


def counts_of(*answers):
    counts = unreadable_counts(["final_answer"], REFERENCES, answers, "answers")
    return counts["num_references_unreadable"], counts["num_answers_unreadable"]


def test_a_row_counts_where_no_reference_is_a_number_and_an_answer_where_it_is_none():
    assert counts_of("5", "5", "5", "5") == (2, 0)
    assert counts_of("3,4", "none", "x", "5 to 8") == (2, 4)
    # What its own reference says is read.
    assert counts_of("5-7", "5-7", "5-7", "between 5 and 7") == (2, 3)
    # Several seeds, row by row.
    assert counts_of("5", "x", "x", "x", "5", "5", "5-7", "x") == (2, 4)
    assert unreadable_counts(["rougeL"], REFERENCES, ["x"] * 4, "answers") == {}


def test_the_notes_tell_how_many():
    assert unreadable_references_note({}, 4) is None
    assert unreadable_answers_note({"num_answers_unreadable,none": 0}) is None
    note = unreadable_references_note({"num_references_unreadable": 2}, 4, suffix="")
    assert note == (
        "final_answer: 2 of 4 rows have no reference with a single final number; there, only an "
        "answer that is written the same way is right"
    )
    assert "1 answer has no single" in (
        unreadable_answers_note({"num_answers_unreadable,none": 1}) or ""
    )


def test_metrics_and_comparisons_tell_it(tmp_path):
    answers = {"one": [["#### 5", "5"], ["7", "8"]], "two": [["#### 5-7", "5"], ["x", "7 or 8"]]}
    for name, texts in answers.items():
        samples = make_samples(texts, references=[["#### 5"], ["#### none"]])
        score_samples(samples, metrics=["final_answer"])
        metrics = task_metrics(samples)
        assert metrics["num_references_unreadable,none"] == 1
        assert metrics["num_answers_unreadable,none"] == (0 if name == "one" else 3)
        write_results(make_results(name, make_task("t", samples)), tmp_path)
    notes = compare_loaded(load_systems([tmp_path / "one", tmp_path / "two"])).notes
    assert [note.partition(" (")[0] for note in notes if "final_answer" in note] == [
        "t: final_answer: 1 of 2 rows have no reference with a single final number; there, only "
        "an answer that is written the same way is right",
        "t, two: final_answer: 3 answers have no single final number",
    ]


def test_score_counts_predictions():
    result = score(["#### 5-7", "5"], ["#### 5", "#### 5"], metrics=["final_answer"])
    assert (result["final_answer"], result["num_predictions_unreadable"]) == (50.0, 1)
    assert result["num_references_unreadable"] == 0
    assert "num_predictions_unreadable" not in score(["5"], ["5"])


def test_a_run_prints_what_it_could_not_read(tmp_path, small_gpt2, harness):
    row = {"prompt": "5 + 2?", "output": "five"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    metrics = "[rougeL, exact_match, final_answer]"
    (tmp_path / "sums.yaml").write_text(f"task: sums\npath: rows.jsonl\nmetrics: {metrics}\n")
    done = harness(
        *("run", "--model", "hf", "--model_args", f"pretrained={small_gpt2}", "--device", "cpu"),
        *("--tasks", "sums.yaml", "--output_path", "out", "--protocol", "greedy"),
        *("--gen_kwargs", "max_gen_toks=4"),
    )
    assert done.returncode == 0, done.stderr
    metrics = load_results(tmp_path / "out").tasks["sums"].metrics
    assert metrics["num_references_unreadable,none"] == 1
    for text in (done.stdout, done.stderr):
        assert "sums: final_answer: 1 of 1 rows have no reference with a single final" in text
