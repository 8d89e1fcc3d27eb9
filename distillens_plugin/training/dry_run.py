"""`--dry-run`: one real step, and what it predicts about the whole run."""

import time

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage.main_process import on_main_process, say
from distillens_plugin.training.memory import peak_memory_bytes
from distillens_plugin.training.term_balance import TermBalance
from distillens_plugin.training.train import build_and_describe, load_and_describe_data
from distillens_plugin.training.trainer import StepResult, Trainer
from distillens_plugin.training.window import Window, windows


def dry_run(recipe: Recipe) -> int:
    """Takes one optimiser step and prints shapes, loss terms, memory and the time of the whole run.

    Nothing is written.
    """
    accelerator = make_accelerator(recipe, tracker_folder=None)
    # Nothing is written, so an earlier run in the output folder does not matter.
    on_main_process(accelerator, lambda: validate_without_weights(recipe, overwrite=True))
    data = load_and_describe_data(recipe, accelerator)
    experiment = build_and_describe(recipe, accelerator, data)
    if recipe.teacher_cache is not None:
        from distillens_plugin.teacher_cache import attach_teacher_cache, plan_teacher_cache

        if experiment.readout is not None:
            # Its states can only be read; the cache is full, so nothing is written.
            say(accelerator, "\n".join(attach_teacher_cache(experiment).lines))
        else:
            say(accelerator, plan_teacher_cache(experiment).describe())
    experiment.box.pre_epoch_process(epoch=0)
    # On-policy answers are sampled when a window is drawn, which belongs to a step's time.
    started_at = time.perf_counter()
    window = next(
        windows(experiment.box.train_data_loader, experiment.box.grad_accum_step, accelerator)
    )
    reshard_teacher = recipe.sharding.reshard_teacher
    balance = TermBalance(experiment)
    trainer = Trainer(experiment.box, accelerator, reshard_teacher=reshard_teacher, balance=balance)
    result = trainer.step(window)
    seconds = time.perf_counter() - started_at
    for line in _report(experiment, window, result, seconds):
        say(accelerator, line)
    return 0


def _report(
    experiment: Experiment, window: Window, result: StepResult, seconds: float
) -> list[str]:
    batch, targets = window.batches[0]
    shape = tuple(batch["input_ids"].shape)
    lines = [
        f"batch: input_ids {list(shape)}, {targets['positions'].numel()} supervised positions",
        f"student: hidden states {[*shape, experiment.student_anatomy.width]}, vocabulary "
        f"{experiment.student_anatomy.vocab_size}",
    ]
    if experiment.teacher_anatomy is not None:
        lines.append(
            f"teacher: hidden states {[*shape, experiment.teacher_anatomy.width]}, vocabulary "
            f"{experiment.teacher_anatomy.vocab_size}"
        )
    lines.append(f"loss: {result.loss:.4g}")
    lines += [f"  {name}: {value:.4g}" for name, value in sorted(result.values.items())]
    if result.grad_norm is not None:
        lines.append(f"gradient norm: {result.grad_norm:.4g}")
    peak = peak_memory_bytes(experiment.accelerator.device)
    lines.append(f"peak memory: {peak / 2**20:,.0f} MiB on {experiment.accelerator.device}")
    # Batches differ in length: scale by tokens, not by steps.
    if experiment.stream is None:
        tokens = sum(experiment.train.lengths)
        epochs = experiment.num_steps / experiment.steps_per_epoch
        total = seconds * tokens * epochs / max(1.0, result.num_tokens)
    else:
        total = seconds * experiment.num_steps
    lines.append(
        f"time: {seconds:.2f} s for this step ({result.num_tokens / seconds:,.0f} tokens/s, with "
        f"the costs of a first step); about {_duration(total)} for {experiment.num_steps} steps, "
        "without validation"
    )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
