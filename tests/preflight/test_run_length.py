"""Runs of no steps and of no number are refused or explained; neither leaves a summary."""

import math

import pytest
import torch
import yaml
from forked_run import forked, quick_recipe
from run_process import change
from safetensors.torch import load_file
from tiny_run import save_tiny_model
from transformers import AutoModelForCausalLM

from distillens_plugin.preflight.run_length import check_enough_rows, check_steps, schedule_notes
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.storage.kept_state import read_standing
from distillens_plugin.training.early_stopping import judge
from distillens_plugin.training.history import History
from distillens_plugin.training.schedule import Schedule
from eval_harness.errors import DistillensError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return quick_recipe(tmp_path_factory.mktemp("length"))


def refused(path, *arguments, code=2):
    out = path.parent / "out"
    done = forked(path, *arguments, output=out)
    assert done.returncode == code, done.stdout + done.stderr[-3000:]
    assert not (out / "summary.json").exists()
    return done


WITHOUT_A_BATCH = (
    "--set",
    "train.train_data_loader.kwargs.batch_size=7",
    "--set",
    "train.train_data_loader.kwargs.drop_last=true",
)


@pytest.mark.parametrize("mode", [[], ["--validate"], ["--dry-run"], ["--resume"]])
def test_too_few_rows_for_a_whole_batch(recipe, mode):
    done = refused(recipe, *WITHOUT_A_BATCH, *mode)
    (line,) = done.stderr.strip().split("\n")
    assert "drop_last: 6 training rows do not fill a batch of 7" in line
    assert "lower batch_size or set drop_last: false" in line
    assert "student:" not in done.stdout
    assert not (recipe.parent / "out").exists()


def test_rows_that_are_dropped_count_too(recipe):
    # Six rows make a batch of six, but only two of them have short prompts.
    changes = ("train.long_prompts=drop", "train.max_prompt_length=110")
    changes += ("validation.long_prompts=cut", "validation.max_prompt_length=80")
    arguments = [part for text in changes for part in ("--set", f"datasets.{text}")]
    arguments += ["--set", "train.train_data_loader.kwargs.drop_last=true"]
    arguments += ["--set", "train.train_data_loader.kwargs.batch_size=6"]
    assert forked(recipe, *arguments, "--validate", output=recipe.parent / "out").returncode == 0
    assert "do not fill a batch of 6" in refused(recipe, *arguments).stderr


def test_every_process_needs_a_batch(recipe):
    dropping = load_recipe(recipe, ["train.train_data_loader.kwargs.drop_last=true"])
    for num_rows, num_processes, enough in [
        (6, 2, True),
        (5, 2, False),
        (11, 4, False),
        (12, 4, True),
    ]:
        if enough:
            check_enough_rows(dropping, num_rows, num_processes)
        else:
            with pytest.raises(DistillensError, match=f"for each of {num_processes} processes"):
                check_enough_rows(dropping, num_rows, num_processes)
    check_enough_rows(load_recipe(recipe), 1, 8)


def test_a_schedule_that_never_peaks_or_never_falls_is_noted(recipe):
    def notes(kwargs, num_steps=10, key="cosine"):
        scheduler = f"train.scheduler={{key: {key}, kwargs: {kwargs}}}"
        found = load_recipe(recipe, [scheduler, "train.optimizer.kwargs.lr=1e-3"])
        return schedule_notes(found, num_steps, 2)

    assert notes("{warmup_steps: 9, min_lr: 9e-4}") == []
    (note,) = notes("{warmup_steps: 10}", key="constant")
    assert "warms up for 10 steps, and the run has 10: the learning rate never reaches lr" in note
    (note,) = notes("{warmup_ratio: 1}")
    assert "warms up for 10 steps" in note
    (note,) = notes("{min_lr: 1e-3}", key="linear")
    assert "min_lr is 0.001, and lr 0.001: the learning rate never falls below lr" in note
    # Of schedules that are not ours, the keys mean what they mean there.
    assert notes("{T_max: 5, eta_min: 1}", key="CosineAnnealingLR") == []


@pytest.mark.parametrize(
    ("every", "epoch_steps"), [(None, 2), (None, 5), (1, 4), (3, 4), (0.25, 10), (0.5, 3)]
)
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_early_stopping_that_cannot_come_is_noted(recipe, every, epoch_steps, patience):
    schedule = Schedule(eval_every=every, steps_per_epoch=epoch_steps)
    changes = [f"train.early_stopping={{patience: {patience}}}"]
    changes += [f"train.eval_every={every}"] if every is not None else []
    found = load_recipe(recipe, changes)
    told = []
    for num_steps in range(1, 30):
        history = History()
        for step in range(1, num_steps):
            if schedule.evaluates(step, ends_epoch=step % epoch_steps == 0):
                judge(
                    history,
                    1.0,
                    found.train.early_stopping,
                    score_name="loss",
                    higher_is_better=False,
                )
        notes = schedule_notes(found, num_steps, epoch_steps)
        told.append(any("the run never stops early" in note for note in notes))
        assert told[-1] == (history.stopped is None), num_steps
    assert set(told) == {True, False}


def test_a_dry_run_tells_of_early_stopping_that_cannot_come(recipe):
    done = forked(
        recipe,
        "--dry-run",
        *("--set", "train.early_stopping={patience: 2}"),
        output=recipe.parent / "out",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if "early_stopping" in line]
    assert line == (
        "note: train.early_stopping.patience is 2, which ends a run at evaluation 3 at the "
        "earliest, and there are 2 before the last step: the run never stops early"
    )


def test_an_epoch_without_batches_and_a_sampler_that_cannot_be_built(recipe):
    with pytest.raises(DistillensError, match="an epoch over 6 training rows has no batch"):
        check_steps(load_recipe(recipe), 6, 0)
    found = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    loader = found["train"]["train_data_loader"]
    loader["sampler"] = {"class_or_func": "X", "kwargs": {"num_samples": 0}}
    text = yaml.safe_dump(found, sort_keys=False).replace(
        "class_or_func: X", "class_or_func: !import_get {key: torch.utils.data.RandomSampler}"
    )
    path = recipe.with_name("sampler.yaml")
    path.write_text(text, encoding="utf-8")
    for mode in ([], ["--dry-run"]):
        done = refused(path, *mode)
        assert "train_data_loader: cannot be built (num_samples should be" in done.stderr
        assert not (recipe.parent / "out").exists()


def test_a_loader_that_gives_nothing_ends_the_run(recipe, tmp_path):
    def nothing():
        from distillens_plugin.training import epochs

        epochs.windows = lambda loader, size, accelerator: iter(())

    out = tmp_path / "out"
    done = forked(recipe, output=out, before=nothing)
    assert done.returncode == 1
    assert "epoch 1: the data loader gave no batch" in done.stderr
    assert not (out / "summary.json").exists()
    assert not (out / "last").exists()


def test_a_validation_loss_that_is_no_number_before_training_names_its_rows(tmp_path):
    path = quick_recipe(tmp_path)
    student = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "student", layers=2))
    with torch.no_grad():
        # A position that only the validation's longer rows reach.
        student.transformer.wpe.weight[110].fill_(math.nan)
    student.save_pretrained(tmp_path / "student")
    change(path, "models.student_model", {"name_or_path": "./student"})
    change(path, "datasets.train.max_length", 100)
    change(path, "datasets.validation.max_length", 128)
    done = refused(path, code=1)
    line = done.stderr.strip().split("\n")[-1]
    assert "before training: the validation loss is not finite in rows " in line
    assert "gsm8k-" in line
    assert "student's own weights" in line


def test_a_validation_loss_that_is_no_number_later_loses_nothing(tmp_path):
    path = quick_recipe(tmp_path)

    def diverge():
        from distillens_plugin.integrations.torchdistill.processes import trained_model
        from distillens_plugin.training.trainer import Trainer

        step = Trainer.step

        def step_and_diverge(self, window):
            result = step(self, window)
            if self.step_number == 4:
                with torch.no_grad():
                    next(iter(trained_model(self.box).parameters())).fill_(math.inf)
            return result

        Trainer.step = step_and_diverge

    out = tmp_path / "out"
    done = forked(path, output=out, before=diverge)
    assert done.returncode == 1
    line = done.stderr.strip().split("\n")[-1]
    assert "step 4: the validation loss is not finite in rows " in line
    assert "what was saved before is intact; lower the learning rate" in line
    assert read_standing(out / "state").step == 2
    for name in ("best", "last"):
        weights = load_file(out / name / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (out / "summary.json").exists()
    # What is left is a run that can be resumed.
    done = forked(path, "--resume", output=out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 1, step 2" in done.stdout
