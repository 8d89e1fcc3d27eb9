"""A run that was killed and resumed ends as one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate import Accelerator
from forked_run import MSE, TERMS, Forked, forked, kill_after_states, quick_recipe, what_it_left
from run_process import ENVIRONMENT, TWO_PROCESSES, change, distillens, records
from tiny_run import REPO

from distillens_plugin.storage import kept_state
from distillens_plugin.storage.kept_state import (
    Standing,
    check_can_be_kept,
    read_standing,
    save_state,
)
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.exchange import put_back, replace_folder


def eventful_recipe(folder, **changes):
    """Dropout, warm-up, a trained projection, windows of two batches, and 3 epochs of 2 steps."""
    path = quick_recipe(folder, **changes)
    change(path, "train.train_data_loader.kwargs.batch_size", 1)
    change(path, "train.optimizer.grad_accum_step", 3)
    change(path, f"{TERMS}.mse", MSE)
    change(path, "log_every", 3)
    return path


def best_by_rouge(path):
    change(path, "train.best_by", "rougeL")
    change(path, "samples.max_new_tokens", 4)


def own_sampler(path):
    text = path.read_text(encoding="utf-8")
    sampler = "sampler: {class_or_func: !import_get {key: torch.utils.data.RandomSampler}}"
    text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {sampler}\n")
    assert sampler in text
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "variant",
    [None, best_by_rouge],
    ids=lambda v: str(v and v.__name__),
)
def test_a_killed_run_ends_with_the_very_weights_and_records(tmp_path, variant):
    path = eventful_recipe(tmp_path)
    if variant is not None:
        variant(path)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = what_it_left(tmp_path / "out")
    assert not (tmp_path / "out" / "state").exists()
    shutil.rmtree(tmp_path / "out")
    ended = forked(path, **place, before=kill_after_states(1))
    assert ended.returncode == -9, ended.stderr
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 1, step 2" in done.stdout
    assert what_it_left(tmp_path / "out") == whole
    assert not (tmp_path / "out" / "state").exists()
    assert not (tmp_path / "out" / "state_before").exists()


def test_two_killed_processes_end_with_the_very_weights(tmp_path):
    # Enough epochs to be killed between the second and the last.
    path = eventful_recipe(tmp_path, num_epochs=6)
    change(path, "train.train_data_loader.kwargs.batch_size", 1)
    out = tmp_path / "out"
    done = distillens(path, "--output_dir", out, launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = what_it_left(out)
    shutil.rmtree(out)
    start_and_kill(path, out, TWO_PROCESSES)
    stood_at = read_standing(out / "state")
    assert stood_at.num_processes == 2
    assert "used 2 processes x 3 batches" in refused(path, "--resume", output=out)
    done = distillens(path, "--output_dir", out, "--resume", launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming after epoch {stood_at.epoch}, step {stood_at.step}" in done.stdout
    assert what_it_left(out) == whole


def start_and_kill(path, output, launcher):
    """Kills all processes once they have kept the state of their second epoch."""
    command = [sys.executable, *launcher, "-m", "distillens_plugin.run", str(path)]
    with subprocess.Popen(
        [*command, "--output_dir", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=REPO,
    ) as run:
        deadline = time.monotonic() + 200
        while not (output / "state_before").exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        # torchrun's workers are in sessions of their own.
        workers = psutil.Process(run.pid).children(recursive=True)
        for process in [*workers, run]:
            process.kill()
        # A killed process holds its lock until it is gone, which takes a moment on a busy machine.
        psutil.wait_procs(workers, timeout=10)
    assert not (output / "summary.json").exists(), "it was killed too late"


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A recipe and its run, killed after its second epoch."""
    folder = tmp_path_factory.mktemp("cut")
    path = eventful_recipe(folder)
    own_sampler(path)
    ended = forked(path, output=folder / "out", before=kill_after_states(2))
    assert ended.returncode == -9, ended.stderr
    return path, folder / "out"


def refused(path, *arguments, output):
    done = forked(path, *arguments, output=output)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip().count("\n") == 0
    return done.stderr


def test_another_recipe_is_refused_and_nothing_is_lost(cut_off):
    path, output = cut_off

    def contents():
        files = (file for file in output.rglob("*") if file.is_file() and file.name != ".lock")
        return {file: file.read_bytes() for file in files}

    before = contents()
    error = refused(path, "--resume", "--set", "train.optimizer.kwargs.lr=0.5", output=output)
    assert "train.optimizer.kwargs.lr was 0.002 and is 0.5" in error
    error = refused(path, "--resume", "--set", "samples.max_new_tokens=5", output=output)
    assert "samples.max_new_tokens was 8 and is 5" in error
    assert "continue it with --resume" in refused(path, output=output)
    assert contents() == before


def test_a_state_that_fits_nothing_is_one_line(cut_off, tmp_path):
    path, output = cut_off
    shutil.copytree(output, tmp_path / "out")
    # As another version would name it, and yet whole.
    shutil.rmtree(tmp_path / "out" / "state_before")
    state = tmp_path / "out" / "state"
    kept_state.write_value(state, "model", {"another.weight": torch.zeros(1)})
    kept_state.write_manifest(state, kept_state.FORM)
    error = refused(path, "--resume", output=tmp_path / "out")
    assert f"{state}: does not fit this run" in error
    kept_state.write_manifest(state, "distillens state 99")
    error = refused(path, "--resume", output=tmp_path / "out")
    assert "has the form 'distillens state 99', expected" in error


def test_flags_that_do_not_go_together(cut_off):
    path, output = cut_off
    for flag in ("--overwrite", "--validate", "--dry-run"):
        error = refused(path, "--resume", flag, output=output)
        assert "--resume: cannot be combined with" in error


def test_resume_starts_a_run_and_leaves_a_finished_one_alone(tmp_path):
    path = quick_recipe(tmp_path, num_epochs=1)
    out = tmp_path / "out"
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    assert "starting from" not in done.stdout
    assert "if killed, it starts again from step 0" in done.stdout
    written = what_it_left(out)
    again = forked(path, "--resume", output=out)
    assert again.returncode == 0, again.stderr
    assert "this run is already finished" in again.stdout
    assert what_it_left(out) == written
    error = refused(path, "--resume", "--set", "train.optimizer.kwargs.lr=0.5", output=out)
    assert "lr was 0.002" in error


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_run_that_kept_nothing_starts_anew_and_says_so(tmp_path, num_epochs):
    path = quick_recipe(tmp_path, num_epochs=num_epochs)
    out = tmp_path / "out"
    if num_epochs > 1:
        change(path, "resumable", False)

    def kill_while_training():
        from distillens_plugin.training.trainer import Trainer

        step = Trainer.step

        def killed_in_the_last_step(self, window):
            if self.step_number == 2 * num_epochs - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, window)

        Trainer.step = killed_in_the_last_step

    run = Forked(path, output=out, before=kill_while_training)
    ended = run.wait()
    assert ended.returncode == -9
    assert not (out / "state").exists()
    assert ("it starts again from step 0" in ended.stdout) == (num_epochs == 1)
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    assert "was interrupted before it kept a state" in done.stdout
    assert "starting from step 0" in done.stdout
    steps = [record["step"] for record in records(out) if "loss" in record]
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


@pytest.fixture
def trained():
    """An accelerator, a box as far as states go, and a standing."""
    model = torch.nn.Linear(2, 2)
    box = SimpleNamespace(
        student_model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        lr_scheduler=None,
        criterion=SimpleNamespace(term_dict={}),
    )
    standing = Standing(3, 1, {}, {}, {}, 1.0, None, None, 1, "", {})
    return Accelerator(cpu=True), box, standing


def test_a_state_that_cannot_be_kept_ends_the_run_and_the_one_before_stays(
    tmp_path, monkeypatch, trained
):
    accelerator, box, standing = trained
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    save_state(tmp_path, accelerator, box, standing)

    def full(folder, name, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kept_state, "write_value", full)
        with pytest.raises(RunFailure, match="No space left on device"):
            save_state(tmp_path, accelerator, box, replace(standing, step=6))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "state"]
    assert read_standing(tmp_path / "state").step == 3
    save_state(tmp_path, accelerator, box, replace(standing, step=9))
    assert read_standing(tmp_path / "state").step == 9
    assert read_standing(tmp_path / "state_before").step == 3
    with pytest.raises(RunFailure, match="cannot keep the state"):
        save_state(tmp_path / "state" / "standing.json", accelerator, box, standing)


def test_a_full_disk_ends_the_run_and_the_state_before_stays(tmp_path):
    """A limit on the size of files, as a disk without room for the weights."""
    import resource

    path = eventful_recipe(tmp_path)
    out = tmp_path / "out"
    ended = forked(path, output=out, before=kill_after_states(1))
    assert ended.returncode == -9
    kept = {file: file.read_bytes() for file in (out / "state").iterdir()}

    def no_room():
        from distillens_plugin.training.trainer import Trainer

        step = Trainer.step

        def step_and_fill(self, window):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            return step(self, window)

        Trainer.step = step_and_fill

    done = forked(path, "--resume", output=out, before=no_room)
    assert done.returncode == 1, done.stderr[-3000:]
    line = done.stderr.strip().split("\n")[-1]
    assert "cannot keep the state" in line
    assert "File too large" in line
    assert {file: file.read_bytes() for file in (out / "state").iterdir()} == kept
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_optimiser_whose_state_cannot_be_kept_is_refused_before_training(trained):
    accelerator, box, _ = trained
    check_can_be_kept(accelerator, box)
    box.optimizer.param_groups[0]["callback"] = print
    with pytest.raises(DistillensError, match="optimizer/param_groups/0/callback is a builtins"):
        check_can_be_kept(accelerator, box)
    box.optimizer.param_groups[0].pop("callback")
    box.lr_scheduler = SimpleNamespace(state_dict=lambda: {"when": object()})
    with pytest.raises(DistillensError, match="resumable: false"):
        check_can_be_kept(accelerator, box)


def test_nothing_that_can_run_code_is_in_a_state(cut_off):
    _, output = cut_off
    for state in ("state", "state_before"):
        for file in (output / state).iterdir():
            assert file.suffix in (".json", ".jsonl", ".safetensors")
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
