"""Sentences about a run, computed from its numbers."""

import math
from collections.abc import Mapping
from typing import Any

from distillens_plugin.reports.run_files import LayerReadings, LensLine
from distillens_plugin.reports.run_records import VALIDATION_LOSS, Run
from distillens_plugin.storage import run_folder

# An entropy within this share of another counts as kept.
_KEPT = 0.1
LOSS_UNIT = "nats per response token"


def about(run: Run) -> str:
    """What was trained, from what, how long and with what success."""
    teacher = teacher_of(run)
    learnt = f"learns from {teacher}" if teacher else "learns without a teacher"
    sentences = [f"{student_of(run)} {learnt}. {_progress(run)}"]
    if run.summary is not None and run.summary.stopped_early:
        sentences.append(f"It stopped early: {run.summary.stopped_early}.")
    sentences.append(_success(run))
    return " ".join(sentence for sentence in sentences if sentence)


def teacher_of(run: Run) -> str | None:
    """The teacher's name; None for a run without one."""
    name = _at(run.recipe, "models", "teacher_model", "name_or_path")
    return _short(name) if isinstance(name, str) else None


def student_of(run: Run) -> str:
    """The student as its recipe defines it."""
    models = _at(run.recipe, "models")
    spec = models.get("student_model") or models.get("model") if isinstance(models, dict) else None
    if not isinstance(spec, dict):
        return "The student"
    if isinstance(spec.get("name_or_path"), str):
        return _short(spec["name_or_path"])
    layers = _at(spec, "init", "from_teacher_layers")
    if layers is not None:
        count = f"{len(layers)} layers" if isinstance(layers, list) else "some layers"
        return f"A student cut from {count} of a teacher"
    kind = _at(spec, "init", "config", "model_type")
    return f"A new {kind}" if isinstance(kind, str) else "A new student"


def planned_steps(run: Run) -> int | None:
    """Optimiser steps that the recipe names; None where it counts epochs."""
    steps = _at(run.recipe, "train", "num_steps")
    return steps if isinstance(steps, int) else None


def seed_of(run: Run) -> int | None:
    """The run's seed."""
    if run.summary is not None and run.summary.seed is not None:
        return run.summary.seed
    seed = run.recipe.get("seed")
    return seed if isinstance(seed, int) else None


def sub_terms(run: Run) -> Mapping[str, Any]:
    """The recipe's loss terms by name; empty where it is missing or has another form."""
    found = _at(run.recipe, "train", "criterion", "kwargs", "sub_terms")
    return found if isinstance(found, Mapping) else {}


def best_validation(run: Run) -> Mapping[str, float] | None:
    """The validation after which `best` was saved; while a run goes on, the best by `best_by`."""
    after = [record for record in run.validation if record["step"] > 0]
    if run.summary is not None and run.summary.best_step is not None:
        # A step may have been validated twice, at the end of an epoch too: the later one counts.
        found = [record for record in after if record["step"] == run.summary.best_step]
        return found[-1] if found else None
    best_by = _at(run.recipe, "train", "best_by")
    if best_by is None or best_by == VALIDATION_LOSS:
        return min(after, key=lambda record: record[VALIDATION_LOSS], default=None)
    # As the run chooses: of equal scores the one of less loss.
    scored = [record for record in after if best_by in record]
    return max(scored, key=lambda r: (r[best_by], -r[VALIDATION_LOSS]), default=None)


def _progress(run: Run) -> str:
    planned, seed = planned_steps(run), seed_of(run)
    with_seed = f", seed {seed}" if seed is not None else ""
    of = f" of {planned:,}" if planned else ""
    if run.diverged is not None:
        steps = f"{run.last_step:,}{of} steps{with_seed}"
        return f"The run diverged after {steps}: {run.diverged}."
    if run.summary is not None:
        return f"{run.summary.num_steps:,} steps{with_seed}."
    return (
        f"The run has not finished (it goes on, or was interrupted): {run.last_step:,}{of} steps "
        f"so far{with_seed}."
    )


def _success(run: Run) -> str:
    if not run.validation:
        return "It has not been validated, so the newest model counts as its best."
    best = best_validation(run)
    if best is None:
        return ""
    before = next((r for r in run.validation if r["step"] == 0), None)
    loss = best[VALIDATION_LOSS]
    text = f"Best at step {int(best['step']):,}: validation loss {loss:.4f} {LOSS_UNIT}"
    if before:
        text += f", {before[VALIDATION_LOSS]:.4f} before training"
    if loss < 20:
        text += f"; perplexity {math.exp(loss):,.1f}"
    return f"{text}."


def entropy_sentence(run: Run) -> str | None:
    """Whether high-entropy layers kept their entropy, with the numbers and the rule.

    A layer of the teacher's is of high entropy if it reads at least the median of its hidden layers
    (layer 0 and the last are left out). The paper claims that the student's partners of such
    layers keep that entropy. Without a teacher the student is compared with itself before training.
    None where the lens was not read twice.
    """
    if len(run.lens) < 2:
        return None
    first, last = run.lens[0], run.lens[-1]
    pairs = last.confidence.pairs if last.confidence is not None else []
    if first.teacher is None or not pairs:
        return _entropy_alone(first, last)
    return _entropy_beside(first, last, first.teacher, pairs)


def _entropy_beside(
    first: LensLine, last: LensLine, teacher: LayerReadings, pairs: list[list[int]]
) -> str | None:
    theirs = dict(zip(teacher.layers, teacher.entropy, strict=True))
    before = dict(zip(first.student.layers, first.student.entropy, strict=True))
    after = dict(zip(last.student.layers, last.student.entropy, strict=True))
    bar = _median([theirs[layer] for layer in teacher.layers[1:-1] or teacher.layers])
    high = [
        (mine, other)
        for mine, other in pairs
        if mine in before and mine in after and theirs.get(other, -1.0) >= bar
    ]
    if not high:
        return None
    of_teacher = _mean([theirs[other] for _, other in high])
    start, end = (_mean([found[mine] for mine, _ in high]) for found in (before, after))
    named = _and(sorted({other for _, other in high}))
    partners = _and(sorted({mine for mine, _ in high}))
    return (
        f"The teacher's high-entropy layers among the pairs (at least the median of its hidden "
        f"layers, {bar:.2f} nats): {named}, {of_teacher:.2f} nats on average. Their partners in "
        f"the student, {partners}, read {start:.2f} nats before training and {end:.2f} nats at "
        f"step {last.step:,}, {_verdict(end, of_teacher, 'the teacher')}."
    )


def _entropy_alone(first: LensLine, last: LensLine) -> str | None:
    before = dict(zip(first.student.layers, first.student.entropy, strict=True))
    after = dict(zip(last.student.layers, last.student.entropy, strict=True))
    hidden = [layer for layer in first.student.layers[1:-1] if layer in after]
    if not hidden:
        return None
    bar = _median([before[layer] for layer in hidden])
    high = [layer for layer in hidden if before[layer] >= bar]
    start, end = (_mean([found[layer] for layer in high]) for found in (before, after))
    return (
        f"The student's high-entropy layers before training (at least the median of its hidden "
        f"layers, {bar:.2f} nats): {_and(high)}, {start:.2f} nats on average. They read {end:.2f} "
        f"nats at step {last.step:,}, {_verdict(end, start, 'the start')}."
    )


def _verdict(value: float, other: float, whose: str) -> str:
    if other <= 0:
        return f"where {whose} has none"
    share = f"{value / other:.0%} of that of {whose}".replace("%", " %")
    if abs(value / other - 1) <= _KEPT:
        return f"{share}: they have kept it, to within {_KEPT * 100:.0f} %"
    if value < other:
        return f"{share}: part of it was lost"
    return f"{share}: none of it was lost, and they are still less sure"


def confidence_sentence(run: Run) -> str | None:
    """Over- and under-confidence over all pairs, before and after; None where it was not read."""
    lines = [line for line in run.lens if line.confidence is not None and line.confidence.pairs]
    if not lines:
        return None
    last = lines[-1]
    text = f"At step {last.step:,} {_confidence(last)}"
    if len(lines) > 1:
        text += f"; at step {lines[0].step:,} {_confidence(lines[0])}"
    return f"{text} (means over the layer pairs)."


def _confidence(line: LensLine) -> str:
    found = line.confidence
    if found is None:
        return ""
    return (
        f"the student is surer than the teacher at {_mean(found.surer_share):.0%} of positions and "
        f"less sure at {_mean(found.less_sure_share):.0%}"
    ).replace("%", " %")


def missing(run: Run) -> list[str]:
    """What the folder does not hold, and why that may be."""
    notes = []
    if not run.lens:
        notes.append(
            f"There is no {run_folder.LENS}, so entropy and confidence by layer are not shown: the "
            "run is of an older version, or measured nothing (report: false)."
        )
    elif run.lens[0].teacher is None:
        notes.append(
            "The lens read the student alone: the run has no teacher, or only its cached states."
        )
    if not run.answers:
        notes.append(
            f"There is no {run_folder.ANSWERS}, so answers through training are not shown: the run "
            "is of an older version, or samples or report are turned off, or it has no validation."
        )
    if not run.recipe:
        notes.append(f"There is no {run_folder.RECIPE}, so settings are not shown.")
    if not run.training:
        notes.append("No training record has been written yet (see log_every).")
    return notes


def _at(values: Any, *keys: str) -> Any:
    """The value under nested keys; None where one is missing."""
    for key in keys:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def _short(name: str) -> str:
    """A Hub name as it is; of a path the last two parts: where it lies is nobody's business."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts[-2:]) if parts else name


def _and(layers: list[int]) -> str:
    *most, last = map(str, layers)
    return f"{', '.join(most)} and {last}" if most else last


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _median(values: list[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
