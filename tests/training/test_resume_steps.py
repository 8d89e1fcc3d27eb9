"""A run that keeps states within its epochs ends as one that was never interrupted."""

import json
import shutil

import pytest
from forked_run import forked, kill_after_states, quick_recipe, what_it_left
from run_process import change, records

from distillens_plugin.storage.kept_state import read_order, read_standing

TERMS = "train.criterion.kwargs.sub_terms"
MSE = {
    "criterion": {
        "key": "distillens.hidden_mse",
        "kwargs": {"layers": {"student": [1], "teacher": [2]}, "projection": "per_pair"},
    },
    "weight": 0.5,
}


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
