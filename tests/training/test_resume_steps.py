"""A run that keeps states within its epochs ends as one that was never interrupted."""

import json
import os
import shutil
import signal

import pytest
from forked_run import MSE, TERMS, forked, kill_after_states, quick_recipe, what_it_left
from run_process import change, records

from distillens_plugin.storage.kept_state import FORM, read_order, read_standing
from distillens_plugin.storage.manifest import write_manifest


def stepwise_recipe(folder, **changes):
    """Two epochs of 3 steps in windows of 2 batches; dropout, warm-up, a trained projection."""
    path = quick_recipe(folder, num_epochs=2)
    change(path, "train.train_data_loader.kwargs.batch_size", 1)
    change(path, "train.optimizer.grad_accum_step", 2)
    change(path, f"{TERMS}.mse", MSE)
    # Sums of the log are pending at every state.
    change(path, "log_every", 4)
    for key, value in {"save_every": 1, "eval_every": 2, **changes}.items():
        change(path, f"train.{key}", value)
    return path


def lora(path):
    change(path, "models.student_model.lora", {"r": 2, "dropout": 0.2})


def cached_teacher(path):
    change(path, "teacher_cache", {"path": str(path.parent / "cache")})
    change(path, f"{TERMS}.mse", None)


def on_policy(path):
    settings = {"share": 0.5, "schedule": "adaptive", "step": 0.2, "tolerance": 0.0}
    change(path, "train.on_policy", {**settings, "max_new_tokens": 5})


def own_sampler(path):
    """An order from torch's global random numbers, which each epoch draws anew."""
    text = path.read_text(encoding="utf-8")
    sampler = "sampler: {class_or_func: !import_get {key: torch.utils.data.RandomSampler}}"
    text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {sampler}\n")
    assert sampler in text
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("variant", [own_sampler, lora, cached_teacher, on_policy])
def test_a_run_killed_within_an_epoch_ends_with_the_very_weights_and_records(tmp_path, variant):
    path = stepwise_recipe(tmp_path)
    variant(path)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = what_it_left(tmp_path / "out")
    for folder in ("out", "cache"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    ended = forked(path, **place, before=kill_after_states(2))
    assert ended.returncode == -9, ended.stderr
    # Killed again, three states later, so a state of a resumed run counts too.
    ended = forked(path, "--resume", **place, before=kill_after_states(3))
    assert ended.returncode == -9, ended.stderr
    assert "resuming within epoch 1, after step 2" in ended.stdout
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming within epoch 2, after step 5" in done.stdout
    assert what_it_left(tmp_path / "out") == whole


def test_a_state_of_an_earlier_version_still_resumes(tmp_path):
    path = stepwise_recipe(tmp_path)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = what_it_left(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    ended = forked(path, **place, before=kill_after_states(3))
    assert ended.returncode == -9, ended.stderr
    state = tmp_path / "out" / "state"
    assert read_standing(tmp_path / "out" / "state_before").batches_taken == 4
    assert read_order(tmp_path / "out" / "state_before", 0)["random"] is not None
    # As kept when states lay between epochs alone.
    standing = json.loads((state / "standing.json").read_text(encoding="utf-8"))
    assert (standing["epoch"], standing.pop("batches_taken")) == (1, 0)
    for name in ("stopping_score", "num_without_improvement", "stopped"):
        standing["history"].pop(name)
    (state / "standing.json").write_text(json.dumps(standing), encoding="utf-8")
    for file in state.glob("order.*"):
        file.unlink()
    write_manifest(state, FORM)
    assert read_order(state, 0) is None
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 1, step 3" in done.stdout
    assert what_it_left(tmp_path / "out") == whole


def kill_after_best(step):
    """For `before`: ends the child by SIGKILL when it has saved `best` of this step."""

    def patch():
        from distillens_plugin.training import lifecycle

        save = lifecycle.save_student

        def save_student(folder, name, *arguments, **settings):
            save(folder, name, *arguments, **settings)
            if (name, settings["step"]) == ("best", step):
                os.kill(os.getpid(), signal.SIGKILL)

        lifecycle.save_student = save_student

    return patch


def kill_at_once():
    """For `before`: ends the child by SIGKILL when its next step has been taken."""
    from distillens_plugin.training.trainer import Trainer

    Trainer.step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def worse_from_now_on():
    """For `before`: as where other devices round otherwise, every later score is worse."""
    from distillens_plugin.training import evaluation

    scores = evaluation.validation_scores

    def validation_scores(*arguments, **settings):
        return {name: value + 1.0 for name, value in scores(*arguments, **settings).items()}

    evaluation.validation_scores = validation_scores


def test_a_best_that_is_later_than_the_state_stays_the_best_and_the_summary_names_it(tmp_path):
    path = quick_recipe(tmp_path, num_epochs=2, train__save_every=2, train__eval_every=1)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    best = tmp_path / "out" / "best"
    ended = forked(path, **place, before=kill_after_best(3))
    assert ended.returncode == -9, ended.stderr
    assert read_standing(tmp_path / "out" / "state").step == 2
    score = records(tmp_path / "out")[-1]["validation_loss"]
    weights = (best / "model.safetensors").read_bytes()
    # Killed again, before it comes to that step: the score is no longer in metrics.jsonl.
    ended = forked(path, "--resume", **place, before=kill_at_once)
    assert ended.returncode == -9, ended.stderr
    done = forked(path, "--resume", **place, before=worse_from_now_on)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{best}: is of step 3, which is after the state of step 2" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["best_step"], summary["best_score"]) == (3, score)
    assert (best / "model.safetensors").read_bytes() == weights


def test_a_run_whose_steps_end_within_an_epoch_says_so(tmp_path):
    path = quick_recipe(tmp_path, num_epochs=None, train__num_steps=3)
    out = tmp_path / "out"
    # Killed when its last step is kept: only the end is left to do.
    ended = forked(path, output=out, before=kill_after_states(2))
    assert ended.returncode == -9, ended.stderr
    standing = read_standing(out / "state")
    assert (standing.step, standing.epoch, standing.batches_taken) == (3, 1, 1)
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [(s["step"], s["epoch"]) for s in summary["validation"]] == [(2, 1), (3, 1.5)]


def test_a_run_whose_score_stays_ends_early_and_is_finished(tmp_path):
    stopping = {"patience": 2, "min_delta": 100.0}
    path = stepwise_recipe(tmp_path, eval_every=1, keep_last=1, early_stopping=stopping)
    out = tmp_path / "out"
    # The second evaluation in a row without an improvement is the third one, within the epoch's
    # bounds; killed once that is decided, but before the models are saved.
    change(path, "train.optimizer.grad_accum_step", 1)
    ended = forked(path, output=out, before=kill_after_states(3))
    assert ended.returncode == -9, ended.stderr
    assert not (out / "state_before").exists()
    standing = read_standing(out / "state")
    assert (standing.step, standing.batches_taken) == (3, 3)
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    reason = summary["stopped_early"]
    assert reason.startswith("validation_loss did not improve by more than 100 in 2 evaluations")
    assert f"stopped early at step 3: {reason}" in ended.stdout + ended.stderr
    assert f"stopped early: {reason}" in done.stdout
    assert summary["num_steps"] == 3
    scored = [(entry["step"], entry["epoch"]) for entry in summary["validation"]]
    assert scored == [(1, 0.1667), (2, 0.3333), (3, 0.5)]
    evaluations = [record for record in records(out) if "validation_loss" in record]
    assert [(r["step"], r["epoch"]) for r in evaluations] == [(0, 0), *scored]
    for name in ("best", "last"):
        assert (out / name / "model.safetensors").exists()
    assert f"optimiser steps | {summary['best_step']}" in (out / "best" / "README.md").read_text()
    again = forked(path, "--resume", output=out)
    assert "this run is already finished" in again.stdout
