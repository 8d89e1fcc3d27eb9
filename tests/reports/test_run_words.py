"""The sentences of a report say what the numbers say."""

import json

import pytest
from run_by_hand import PAIRS, run_by_hand, write_lines

from distillens_plugin.reports import run_words as words
from distillens_plugin.reports.run_records import read_run


def lens_run(folder, *, teacher, before, after):
    """A run whose models read these entropies in layers 0 to 4."""
    run_by_hand(folder)
    lines = [json.loads(line) for line in (folder / "lens.jsonl").read_text().splitlines()]
    lines = [lines[0], lines[-1]]
    for line, entropy in zip(lines, (before, after), strict=True):
        line["student"]["entropy"] = entropy
        if teacher is None:
            line.pop("teacher", None)
            line.pop("confidence", None)
    if teacher is not None:
        lines[0]["teacher"]["entropy"] = teacher
    write_lines(folder / "lens.jsonl", lines)
    return read_run(folder)


def test_high_entropy_that_was_kept(tmp_path):
    run = lens_run(
        tmp_path / "a",
        teacher=[9.0, 6.0, 4.0, 2.0, 1.0],
        before=[7.0, 7.0, 7.0, 7.0, 7.0],
        after=[5.0, 5.7, 4.1, 2.0, 1.0],
    )
    sentence = words.entropy_sentence(run)
    # Layers 1 and 2 reach the median of the hidden layers, 4 nats: 5 nats and 4.9 on average.
    assert "4.00 nats): 1 and 2, 5.00 nats on average" in sentence
    assert "7.00 nats before training and 4.90 nats at step 60, 98 % of that of the t" in sentence
    assert "they have kept it" in sentence


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([5.0, 2.0, 1.0, 1.0, 1.0], "30 % of that of the teacher: part of it was lost"),
        ([5.0, 9.0, 6.0, 1.0, 1.0], "150 % of that of the teacher: none of it was lost"),
    ],
)
def test_high_entropy_that_was_not_kept(tmp_path, after, verdict):
    teacher = [9.0, 6.0, 4.0, 2.0, 1.0]
    run = lens_run(tmp_path / "a", teacher=teacher, before=[7.0] * 5, after=after)
    assert verdict in words.entropy_sentence(run)


def test_a_student_without_a_teacher_is_compared_with_itself(tmp_path):
    before, after = [7.0, 6.0, 5.0, 3.0, 2.0], [7.0, 3.0, 2.0, 3.0, 2.0]
    run = lens_run(tmp_path / "a", teacher=None, before=before, after=after)
    sentence = words.entropy_sentence(run)
    assert "5.00 nats): 1 and 2, 5.50 nats on average" in sentence
    assert "2.50 nats at step 60, 45 % of that of the start" in sentence
    assert any("student alone" in note for note in words.missing(run))


def test_one_reading_says_nothing_about_a_change(tmp_path):
    run_by_hand(tmp_path / "a")
    lines = (tmp_path / "a" / "lens.jsonl").read_text().splitlines()
    (tmp_path / "a" / "lens.jsonl").write_text(lines[0] + "\n")
    assert words.entropy_sentence(read_run(tmp_path / "a")) is None


def test_confidence_before_and_after(tmp_path):
    sentence = words.confidence_sentence(read_run(run_by_hand(tmp_path / "a")))
    assert sentence.startswith("At step 60 the student is surer than the teacher at 20 % of")
    assert "at step 0 the student is surer than the teacher at 20 % of positions and less sure at "
    assert "less sure at 73 %" in sentence
    assert len(PAIRS) == 3


def test_about_a_finished_run(tmp_path):
    text = words.about(read_run(run_by_hand(tmp_path / "a")))
    assert text.startswith("A new llama learns from quickstart/teacher. 60 steps, seed 10.")
    assert "Best at step 60: validation loss 4.8033 nats per response token, 7.6000 before" in text
    assert "somewhere" not in text


def test_about_a_run_that_goes_on_and_one_without_teacher_and_validation(tmp_path):
    text = words.about(read_run(run_by_hand(tmp_path / "a", num_steps=40, finished=False)))
    assert "The run has not finished" in text
    assert "40 of 60 steps so far, seed 10" in text
    models = {"teacher_model": None, "student_model": {"name_or_path": "gpt2"}}
    alone = run_by_hand(tmp_path / "b", models=models)
    records = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    write_lines(alone / "metrics.jsonl", [r for r in records if "validation_loss" not in r])
    text = words.about(read_run(alone))
    assert text.startswith("gpt2 learns without a teacher.")
    assert "has not been validated" in text


def test_a_run_that_diverged_says_why(tmp_path):
    folder = run_by_hand(tmp_path / "a", num_steps=40, finished=False)
    reason = "step 41: the loss is not finite"
    (folder / "diverged.json").write_text(json.dumps({"reason": reason}))
    text = words.about(read_run(folder))
    assert f"The run diverged after 40 of 60 steps, seed 10: {reason}." in text
    assert "has not finished" not in text


def test_while_a_run_goes_on_its_best_is_by_the_recipes_score(tmp_path):
    folder = run_by_hand(tmp_path / "a", finished=False, train={"best_by": "rougeL"})
    scores = {0: 99.0, 20: 9.0, 40: 9.0, 60: 5.0}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if "validation_loss" in record:
            record["rougeL"] = scores[record["step"]]
    write_lines(folder / "metrics.jsonl", records)
    # The loss falls with the steps: of the two equal scores the later one has less of it.
    assert words.best_validation(read_run(folder))["step"] == 40
    by_loss = run_by_hand(tmp_path / "b", finished=False)
    assert words.best_validation(read_run(by_loss))["step"] == 60


def test_what_is_missing_is_said(tmp_path):
    folder = run_by_hand(tmp_path / "a")
    assert words.missing(read_run(folder)) == []
    for name in ("lens.jsonl", "answers.jsonl", "recipe.yaml"):
        (folder / name).unlink()
    notes = words.missing(read_run(folder))
    assert [note.split(",")[0] for note in notes] == [
        "There is no lens.jsonl",
        "There is no answers.jsonl",
        "There is no recipe.yaml",
    ]
