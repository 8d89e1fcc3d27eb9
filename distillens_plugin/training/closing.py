"""The end of a run: summary.json, sample answers, and the last lines for people."""

import math
from pathlib import Path

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.main_process import on_main_process
from distillens_plugin.storage.model_card import versions
from distillens_plugin.training.history import History
from distillens_plugin.training.memory import peak_memory_bytes
from distillens_plugin.training.readings import Readings
from distillens_plugin.training.validation import SampleAnswer, sample_answers


def close_run(
    folder: Path,
    experiment: Experiment,
    history: History,
    readings: Readings,
    *,
    loss_before: float | None,
    weights: dict[str, float],
    num_steps: int,
    seconds: float,
) -> None:
    """Makes a run finished, and shows what it reached; every process calls it.

    Args:
        weights: of the terms whose weight was measured.
        num_steps: optimiser steps taken.
        seconds: of work, without interruptions.
    """
    accelerator = experiment.accelerator
    measured = readings.summary()
    summary = {
        "validation_loss_before": loss_before,
        "validation_loss_after": history.last_loss,
        "best_by": experiment.recipe.train.best_by,
        "best_score": history.best_score,
        "best_step": history.best_step,
        "validation": history.validation,
        "num_steps": num_steps,
        "stopped_early": history.stopped,
        "num_all_masked_batches": history.num_all_masked,
        "seconds": round(seconds, 1),
        "train_seconds": round(history.train_seconds, 1),
        "tokens_per_s": round(history.tokens_per_s, 1),
        "seconds_per_step": round(history.seconds_per_step, 6),
        "peak_memory_bytes": peak_memory_bytes(accelerator.device),
        **({"weights": weights} if weights else {}),
        **measured,
        "seed": experiment.recipe.seed,
        "num_processes": accelerator.num_processes,
        "versions": versions(),
    }
    answers: list[SampleAnswer] = []
    failure: Exception | None = None
    try:
        # Before the summary: a run that is killed here is resumed, and has its last answers.
        answers = _samples(experiment)
        readings.keep_last_answers(answers, num_steps)
    except Exception as error:
        # Raised below: what was trained is whole, and another try would fail again.
        failure = error
    on_main_process(accelerator, lambda: run_folder.write_summary(folder, summary))
    if accelerator.is_main_process:
        run_folder.remove_states(folder)
    if failure is not None:
        raise failure
    if not accelerator.is_main_process:
        return
    for answer in answers:
        print(_show_answer(answer))
    if history.num_all_masked:
        print(f"{history.num_all_masked} batches had no supervised token and gave no gradient")
    if history.stopped is not None:
        print(f"stopped early: {history.stopped}")
    if loss_before is not None and history.last_loss is not None:
        print(
            f"validation loss: {loss_before:.4f} before, {history.last_loss:.4f} after "
            f"{num_steps} steps (nats per response token; perplexity "
            f"{_perplexity(loss_before)} before, {_perplexity(history.last_loss)} after)"
        )
    best = "last step" if history.best_score is None else f"step {history.best_step}"
    print(f"{seconds:.0f} s, {history.tokens_per_s:,.0f} tokens/s while training")
    print(f"best model ({best}): {folder / run_folder.BEST}")
    print(f"last model: {folder / run_folder.LAST}")
    print(f"metrics: {folder / run_folder.METRICS}, {folder / run_folder.SUMMARY}")
    if (line := readings.line(measured)) is not None:
        print(line)
    readings.finish(num_steps)


def _samples(experiment: Experiment) -> list[SampleAnswer]:
    """Of the main process; the others lend their parts of a sharded model."""
    samples = experiment.recipe.samples
    if experiment.validation is None or samples.num_rows == 0:
        return []
    return sample_answers(
        trained_model(experiment.box),
        experiment.validation,
        experiment.tokenizer,
        num_rows=samples.num_rows if experiment.accelerator.is_main_process else 0,
        max_new_tokens=samples.max_new_tokens,
    )


def _show_answer(answer: SampleAnswer) -> str:
    def indented(text: str) -> str:
        return text.strip().replace("\n", "\n    ")

    return (
        f"\n  prompt:\n    {indented(answer.prompt)}\n  answer:\n    {indented(answer.answer)}\n"
        f"  reference:\n    {indented(answer.reference)}\n"
    )


def _perplexity(nll: float) -> str:
    return f"{math.exp(nll):.1f}" if nll < 20 else f"e^{nll:.1f}"
