"""What a run reports: metrics.jsonl, tensorboard, wandb, and lines where there is no terminal."""

import json
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from forked_run import forked, kill_after_states, quick_recipe
from run_process import ENVIRONMENT, TWO_PROCESSES, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import REPO, tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import load_examples
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.averages import Averages
from distillens_plugin.training.progress import Progress
from eval_harness.errors import DistillensError

TERMS = {"kd", "lens", "lens/1-2", "lens/2-4"}
MEASURED = {"loss", "grad_norm", "tokens_per_s", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run on two processes, with both trackers and without max_grad_norm."""
    folder = tmp_path_factory.mktemp("reported")
    path = tiny_recipe(folder, trackers=["tensorboard", "wandb"])
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    del recipe["train"]["optimizer"]["max_grad_norm"]
    recipe["train"]["train_data_loader"]["kwargs"]["batch_size"] = 4
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, *TWO_PROCESSES, "-m", "distillens_plugin.run", str(path)]
    environment = {**ENVIRONMENT, "WANDB_MODE": "offline", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_each_record_has_the_terms_the_gradient_norm_and_the_memory(reported):
    folder, _ = reported
    steps = [record for record in records(folder / "out") if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3]
    for record in steps:
        assert record.keys() >= TERMS | MEASURED | {"lr"}
        assert record["grad_norm"] > 0
        assert record["peak_memory_bytes"] > 10**8


def test_tensorboard_has_every_record_under_train_and_val(reported):
    folder, _ = reported
    events = EventAccumulator(str(folder / "out" / "trackers" / "distillens"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    measured = {"loss", "grad_norm", "learning_rate", "tokens_per_second", "peak_memory_bytes"}
    train = {f"train/{name}" for name in TERMS | measured | {"num_supervised"}}
    assert tags == train | {f"val/{name}" for name in TERMS | {"loss"}} | {"epoch"}
    written = [record for record in records(folder / "out") if "validation_loss" in record]
    for tag, name in {"val/loss": "validation_loss", "val/lens/1-2": "val/lens/1-2"}.items():
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(record["step"], pytest.approx(record[name])) for record in written]
        assert shown == expected
    assert [step for step, _ in shown] == [0, 3]


def test_trackers_have_figures_of_what_the_run_measured(reported):
    """At a validation if they fit into the run's time, and at the end in any case."""
    folder, done = reported
    assert "note: no figures" not in done.stdout
    events = EventAccumulator(str(folder / "out" / "trackers" / "distillens"))
    events.Reload()
    tags = {f"report/{name}" for name in ("entropy", "confidence", "pairs")}
    assert set(events.Tags()["images"]) == tags
    for tag in tags:
        image = events.Images(tag)[-1]
        assert image.step == 3
        assert image.width > image.height > 100
    media = (folder / "out" / "trackers" / "wandb").glob(
        "offline-run-*/files/media/images/report/*"
    )
    assert {path.name.partition("_3_")[0] for path in media} == {tag[7:] for tag in tags}


def test_trackers_have_the_resolved_recipe_as_flat_settings(reported):
    folder, _ = reported
    (path,) = (folder / "out" / "trackers").rglob("hparams.yml")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert settings["train.optimizer.kwargs.lr"] == 2.0e-3
    assert settings["train.train_data_loader.kwargs.batch_size"] == 4
    assert settings["seed"] == 10, "defaults are settings too"
    terms = "train.criterion.kwargs.sub_terms"
    assert settings[f"{terms}.lens.criterion.kwargs.layers.student"] == "[1, 2]"
    assert all(isinstance(value, (str, int, float, bool)) for value in settings.values())


def test_wandb_writes_inside_the_run_folder(reported):
    folder, _ = reported
    assert sorted(path.name for path in folder.iterdir()) == ["out", "recipe.yaml", "teacher"]
    (path,) = (folder / "out" / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    written = path.read_bytes()
    for name in (b"train/lens/1-2", b"val/kd", b"train.optimizer.kwargs.lr"):
        assert name in written


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path):
    def offline():
        os.environ["WANDB_MODE"] = "offline"

    def offline_and_killed():
        offline()
        kill_after_states(1)()

    path = quick_recipe(tmp_path, num_epochs=2, trackers=["wandb"])
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}

    def run_ids():
        folders = (tmp_path / "out" / "trackers" / "wandb").glob("offline-run-*")
        return [folder.name.rpartition("-")[2] for folder in folders]

    assert forked(path, **place, before=offline_and_killed).returncode == -9
    (run_id,) = run_ids()
    done = forked(path, "--resume", **place, before=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    assert run_ids() == [run_id, run_id]
    # A new run in its place is another one for wandb too.
    assert forked(path, "--overwrite", **place, before=offline_and_killed).returncode == -9
    (other_id,) = run_ids()
    assert other_id != run_id


def test_a_tracker_that_cannot_start_leaves_the_earlier_run_as_it_was(tmp_path):
    def no_login():
        from accelerate import Accelerator

        def init_trackers(self, *_, init_kwargs, **__):
            (Path(init_kwargs["wandb"]["dir"]) / "begun").touch()
            raise RuntimeError("401 Unauthorized")

        Accelerator.init_trackers = init_trackers

    path = quick_recipe(tmp_path, num_epochs=1, trackers=["tensorboard"])
    out = tmp_path / "out"
    place = {"output": out, "log": tmp_path / "log"}

    def files():
        found = [found for found in out.rglob("*") if found.is_file() and found.name != ".lock"]
        return {path: path.read_bytes() for path in found}

    # Nor does it leave anything where there was none.
    assert forked(path, **place, before=no_login).returncode == 1
    assert not out.exists()
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "trackers" / "mark").touch()
    earlier = files()
    done = forked(path, "--overwrite", **place, before=no_login)
    assert done.returncode == 1
    assert "trackers: tensorboard cannot start (401 Unauthorized)" in done.stderr
    assert files() == earlier
    done = forked(path, "--overwrite", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (out / "trackers" / "mark").exists()
    assert not (out / ".trackers.replaced").exists()
    assert list((out / "trackers" / "distillens").glob("events*"))


def test_a_log_file_gets_a_line_for_each_record_and_no_bar(reported):
    _, done = reported
    lines = [line for line in done.stderr.split("\n") if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    for part in ("loss ", "lr 0.0", " tokens/s, ", " left"):
        assert part in lines[0]
    assert lines[-1].endswith("00:00 left")
    assert "%|" not in done.stderr
    assert "epoch 1, step 3: validation_loss " in done.stdout
    assert "val/lens/1-2" not in done.stdout, "a layer pair is for the file"


def test_the_reported_divergence_is_that_of_the_saved_student(reported):
    folder, _ = reported
    recipe = load_recipe(folder / "recipe.yaml")
    student = AutoModelForCausalLM.from_pretrained(folder / "out" / "last").double().eval()
    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher").double().eval()
    data = load_examples(
        recipe.datasets.validation, load_tokenizer(str(folder / "teacher")), where="validation"
    )
    total, count = 0.0, 0
    for index in range(len(data)):
        batch, targets = collate([data[index]])
        with torch.no_grad():
            p, q = (
                model(input_ids=batch["input_ids"]).logits.flatten(0, 1)[targets["positions"]]
                for model in (teacher, student)
            )
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        count += len(targets["positions"])
    last = records(folder / "out")[-1]
    assert last["val/kd"] == pytest.approx(total / count, rel=1e-4)
    assert last["val/lens"] == pytest.approx((last["val/lens/1-2"] + last["val/lens/2-4"]) / 2)


def test_a_step_without_a_value_is_no_part_of_its_mean():
    """fp16 skips a step whose gradient overflows: it has a loss, and no gradient's norm."""
    averages = Averages()
    averages.add({"loss": 1.0, "grad_norm": 2.0})
    averages.add({"loss": 3.0})
    resumed = Averages()
    resumed.restore(json.loads(json.dumps(averages.state())))
    resumed.add({"loss": 5.0, "grad_norm": 4.0})
    assert resumed.take() == {"loss": 3.0, "grad_norm": 3.0}
    assert resumed.take() == {}
    # As a state of an earlier version has them.
    resumed.restore({"sums": {"loss": 6.0}, "steps": 2})
    assert resumed.take() == {"loss": 3.0}


def test_the_pace_leaves_out_the_steps_after_a_start(monkeypatch):
    class OneProcess:
        is_main_process = False

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def take(progress, seconds):
        for each in seconds:
            clock.now += each
            progress.step(1.0, 10.0)

    progress = Progress(60, OneProcess())
    assert progress.seconds_per_step == 0.0
    take(progress, [30.0] + [1.0] * 14)
    # Too few others.
    assert progress.seconds_per_step == pytest.approx(44 / 15)
    progress.pause()
    clock.now += 100.0
    progress.resume()
    take(progress, [1.0] * 5)
    assert progress.seconds_per_step == pytest.approx(1.0)
    resumed = Progress(60, OneProcess())
    resumed.restore(progress.state(), 20)
    take(resumed, [60.0] + [2.0] * 29)
    assert resumed.seconds_per_step == pytest.approx((10 * 1.0 + 20 * 2.0) / 30)
    assert resumed.train_seconds == pytest.approx(49 + 118)


def test_a_terminal_gets_the_bar(monkeypatch):
    class OneProcess:
        is_main_process = True

    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 120))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(2, OneProcess())
        for _ in range(2):
            progress.step(1.5, 10.0)
            progress.show_record(loss=1.5, learning_rate=0.1)
        progress.close()
    shown = os.read(reader, 10_000).decode()
    os.close(reader)
    assert "%|" in shown
    assert "step 1/2" not in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["datasets.validation=null"], "there is no datasets.validation"),
        (["teacher_cache={path: cache}"], "a teacher_cache keeps"),
    ],
)
def test_validation_terms_that_cannot_be_had_are_refused(tmp_path, changes, message):
    path = tiny_recipe(tmp_path)
    tracked = ["trackers=[tensorboard]"]
    assert load_recipe(path, tracked).validates_terms
    assert not load_recipe(path).validates_terms
    assert load_recipe(path, ["validation_terms=true"]).validates_terms
    assert not load_recipe(path, [*tracked, "validation_terms=false"]).validates_terms
    assert not load_recipe(path, [*tracked, "teacher_cache={path: cache}"]).validates_terms
    with pytest.raises(DistillensError, match=f"validation_terms: {message}"):
        load_recipe(path, ["validation_terms=true", *changes])
