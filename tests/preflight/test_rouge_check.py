"""The best model by ROUGE-L: rows that it cannot see are refused or told, and ties are broken."""

import json

import pytest
from run_process import change, distillens
from tiny_run import tiny_recipe

from distillens_plugin.preflight.rouge_check import check_best_by
from distillens_plugin.training.history import History
from eval_harness.errors import DistillensError

WHERE = "r.yaml: datasets.validation"


def recipe_of(folder, outputs, best_by="rougeL"):
    """A recipe that chooses by ROUGE-L on validation rows with these references."""
    path = tiny_recipe(folder)
    rows = [{"instruction": "首都?", "output": output} for output in outputs]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    change(path, "datasets.validation", {"path": str(folder / "rows.jsonl")})
    change(path, "train.best_by", best_by)
    return path


@pytest.mark.parametrize("more", [(), ("--validate",)])
def test_rows_that_rouge_cannot_see_are_refused_before_training(tmp_path, more):
    done = distillens(recipe_of(tmp_path, ["北京", "Москва"]), *more)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "datasets.validation: found 2 rows without a word that ROUGE-L sees" in line
    assert "train.best_by: rougeL_unicode or validation_loss" in line
    assert not (tmp_path / "out").exists()


def test_generated_validation_rows_are_read_too(tmp_path):
    path = recipe_of(tmp_path, [])
    row = {"instruction": "?", "output": "😀", "generated_by": {"teacher": "some"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    change(path, "datasets.validation.generated", True)
    change(path, "train.best_by", "rougeL_unicode")
    done = distillens(path, "--validate")
    assert done.returncode == 2
    assert "(letters and numbers) in their references" in done.stderr
    assert done.stderr.strip().endswith("set train.best_by: validation_loss")


def test_the_best_model_is_chosen_by_words_of_any_script(tmp_path):
    path = recipe_of(tmp_path, ["北京", "He has 3 + 4 = 7 zebras.\n#### 7"], "rougeL_unicode")
    change(path, "samples", {"num_rows": 1, "max_new_tokens": 8})
    done = distillens(path)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    scores = [(epoch["rougeL_unicode"], epoch["step"]) for epoch in summary["validation"]]
    highest = max(score for score, _ in scores)
    assert summary["best_step"] in [step for score, step in scores if score == highest]
    card = (tmp_path / "out" / "best" / "README.md").read_text(encoding="utf-8")
    assert "ROUGE-L of Unicode words" in card


def test_a_part_of_the_rows_is_told_and_equal_scores_are_decided_by_the_loss(tmp_path):
    path = recipe_of(tmp_path, ["...", "He has 3 + 4 = 7 zebras.\n#### 7"])
    # Answers of one token of a random model never hold the word: every score is 0.
    change(path, "samples", {"num_rows": 1, "max_new_tokens": 1})
    change(path, "train.num_epochs", 3)
    done = distillens(path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 of 2 rows have no reference with a word that ROUGE-L sees" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    epochs = summary["validation"]
    assert [epoch["rougeL"] for epoch in epochs] == [0.0] * 3
    lowest = min(epochs, key=lambda epoch: epoch["validation_loss"])
    assert lowest["step"] != epochs[0]["step"]
    assert summary["best_step"] == lowest["step"]


def test_rows_are_judged_by_all_of_their_references():
    assert check_best_by("rougeL", [["北京", "Beijing"], ["x"]], WHERE) is None
    assert "1 of 2 rows" in str(check_best_by("rougeL", [["北京"], ["x"]], WHERE))
    assert check_best_by("rougeL", [], WHERE) is None
    for best_by in ("rougeL_unicode", "validation_loss"):
        assert check_best_by(best_by, [["北京"]], WHERE) is None
    with pytest.raises(DistillensError, match=r"datasets\.validation: found 1 rows"):
        check_best_by("rougeL", [["北京"]], WHERE)


def test_only_equal_scores_are_decided_by_the_loss():
    history = History(
        validation=[{"step": 4, "validation_loss": 2.0}, {"step": 8, "validation_loss": 1.0}],
        best_step=4,
        best_score=5.0,
    )
    assert history.improves(5.0, True, 1.0)
    assert not history.improves(5.0, True, 2.0)
    assert not history.improves(4.9, True, 1.0)
    assert history.improves(5.1, True, 3.0)
