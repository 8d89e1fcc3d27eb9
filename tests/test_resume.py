"""A run that was killed and gone on with ends as one that was not."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from accelerate import Accelerator
from run_process import ENVIRONMENT, TWO_PROCESSES, change, distillens, records
from safetensors.torch import load_file
from tiny_run import REPO, tiny_recipe

from distillens_plugin.checkpoint import put_back, replace_folder
from distillens_plugin.kept_state import Standing, save_state
from eval_harness.errors import RunFailure

TERMS = "train.criterion.kwargs.sub_terms"
MSE = {
    "criterion": {
        "key": "distillens.hidden_mse",
        "kwargs": {"layers": {"student": [1], "teacher": [2]}, "projection": "per_pair"},
    },
    "weight": 0.5,
}


def eventful_recipe(folder):
    """Dropout, warm-up, a trained projection, and 8 epochs of 6 steps."""
    path = tiny_recipe(folder)
    change(path, "train.num_epochs", 8)
    change(path, "train.train_data_loader.kwargs.batch_size", 2)
    change(path, "train.optimizer.grad_accum_step", 2)
    change(path, "train.scheduler.kwargs.warmup_steps", 7)
    change(path, f"{TERMS}.mse", MSE)
    change(path, "log_every", 4)
    change(path, "samples.num_rows", 0)
    return path


def start_and_kill(path, output, launcher=()):
    """Kills the run once it has kept the state of its second epoch."""
    command = [sys.executable, *launcher, "-m", "distillens_plugin.run", str(path)]
    with subprocess.Popen(
        [*command, "--output_dir", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=REPO,
    ) as run:
        deadline = time.monotonic() + 200
        while standing(output).get("epoch", 0) < 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        # torchrun's workers are in sessions of their own.
        for process in [*psutil.Process(run.pid).children(recursive=True), run]:
            process.kill()
    assert not (output / "summary.json").exists(), "it was killed too late"


def standing(output):
    try:
        return json.loads((output / "state" / "standing.json").read_text(encoding="utf-8"))
    except OSError:
        return {}


@pytest.mark.parametrize("launcher", [(), TWO_PROCESSES], ids=["one process", "two processes"])
def test_a_killed_run_ends_with_the_very_weights_and_records(tmp_path, launcher):
    path = eventful_recipe(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = distillens(path, "--output_dir", whole, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    start_and_kill(path, cut, launcher)
    stood_at = standing(cut)["step"]
    done = distillens(path, "--output_dir", cut, "--resume", launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on after epoch {standing_epoch(stood_at, launcher)}, step {stood_at}" in (
        done.stdout
    )
    for name in ("last", "best"):
        for file in ("model.safetensors", "loss/parameters.safetensors"):
            ours, theirs = load_file(whole / name / file), load_file(cut / name / file)
            assert set(ours) == set(theirs)
            for key, tensor in ours.items():
                assert tensor.equal(theirs[key]), (name, key)
    assert [without_pace(r) for r in records(whole)] == [without_pace(r) for r in records(cut)]
    one, other = (
        json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in (whole, cut)
    )
    for key in ("validation", "validation_loss_before", "best_step", "best_score", "num_steps"):
        assert one[key] == other[key]
    assert other["train_seconds"] > 0
    assert not (cut / "state").exists()
    assert not (whole / "state").exists()


def standing_epoch(step, launcher):
    steps_per_epoch = 3 if launcher else 6
    assert step % steps_per_epoch == 0
    return step // steps_per_epoch


def without_pace(record):
    return {key: value for key, value in record.items() if key != "tokens_per_s"}


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A recipe and its killed run."""
    folder = tmp_path_factory.mktemp("cut")
    path = eventful_recipe(folder)
    start_and_kill(path, folder / "out")
    return path, folder / "out"


def refused(path, *arguments):
    done = distillens(path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip().count("\n") == 0
    return done.stderr


def test_another_recipe_or_number_of_processes_is_refused_and_nothing_is_lost(cut_off):
    path, output = cut_off
    before = sorted(file.name for file in (output / "state").iterdir())
    error = refused(path, "--resume", "--set", "train.optimizer.kwargs.lr=0.5")
    assert "train.optimizer.kwargs.lr was 0.002 and is 0.5" in error
    assert "log_every was 4 and is 5" in refused(path, "--resume", "--set", "log_every=5")
    kept = standing(output)
    text = json.dumps({**kept, "num_processes": 2})
    (output / "state" / "standing.json").write_text(text, encoding="utf-8")
    assert "had 2 processes, found 1" in refused(path, "--resume")
    (output / "state" / "standing.json").write_text("{", encoding="utf-8")
    assert "train anew with --overwrite" in refused(path, "--resume")
    (output / "state" / "standing.json").write_text(json.dumps(kept), encoding="utf-8")
    assert sorted(file.name for file in (output / "state").iterdir()) == before
    assert "go on with it by --resume" in refused(path)


def test_a_state_that_cannot_be_read_is_one_line(cut_off):
    path, output = cut_off
    weights = output / "state" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    assert f"{output / 'state'}: cannot be read" in refused(path, "--resume")
    weights.write_bytes(content)


def test_flags_that_do_not_go_together(cut_off):
    path, _ = cut_off
    for flag in ("--overwrite", "--validate", "--dry-run"):
        assert "--resume goes with none of" in refused(path, "--resume", flag)


def test_resume_starts_a_run_and_leaves_a_finished_one_alone(tmp_path):
    path = tiny_recipe(tmp_path)
    change(path, "samples.num_rows", 0)
    done = distillens(path, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on" not in done.stdout
    summary = tmp_path / "out" / "summary.json"
    written = summary.stat().st_mtime_ns
    again = distillens(path, "--resume")
    assert again.returncode == 0, again.stderr
    assert "this run is finished" in again.stdout
    assert summary.stat().st_mtime_ns == written
    assert "lr was 0.002" in refused(path, "--resume", "--set", "train.optimizer.kwargs.lr=0.5")


def test_without_resumable_nothing_is_kept_and_resume_starts_anew(tmp_path):
    path = eventful_recipe(tmp_path)
    change(path, "resumable", False)
    command = [sys.executable, "-m", "distillens_plugin.run", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=REPO
    ) as run:
        while not (tmp_path / "out" / "last").exists():
            assert run.poll() is None
            time.sleep(0.005)
        time.sleep(0.2)
        assert not (tmp_path / "out" / "state").exists()
        run.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "summary.json").exists()
    done = distillens(path, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on" not in done.stdout
    steps = [record["step"] for record in records(tmp_path / "out") if "loss" in record]
    assert steps == sorted(set(steps))


def test_a_folder_that_lies_aside_comes_back(tmp_path):
    folder, partial = tmp_path / "state", tmp_path / ".state.partial"
    for place, text in ((folder, "old"), (partial, "new")):
        place.mkdir()
        (place / "a").write_text(text, encoding="utf-8")
    folder.rename(tmp_path / ".state.replaced")
    put_back(folder)
    assert (folder / "a").read_text(encoding="utf-8") == "old"
    put_back(folder)
    replace_folder(partial, folder)
    assert (folder / "a").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", folder)
    assert (folder / "a").read_text(encoding="utf-8") == "new"


def test_a_state_that_cannot_be_kept_ends_the_run_and_the_one_before_stays(tmp_path, monkeypatch):
    accelerator = Accelerator(cpu=True)
    box = SimpleNamespace(lr_scheduler=None, criterion=SimpleNamespace(term_dict={}))
    standing = Standing(3, 1, {}, {}, {}, 1.0, None, None, 0, 1)
    save_state(tmp_path, accelerator, box, standing)

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accelerator, "save_state", full)
    with pytest.raises(RunFailure, match="No space left on device"):
        save_state(tmp_path, accelerator, box, replace(standing, step=6))
    assert json.loads((tmp_path / "state" / "standing.json").read_text())["step"] == 3
    (tmp_path / ".state.partial").rename(tmp_path / "other")
    with pytest.raises(RunFailure, match="cannot keep the state"):
        save_state(tmp_path / "state" / "standing.json", accelerator, box, standing)
