"""What a reader of a comparison should know, though it does not prevent one."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval_harness.comparison.systems import System
from eval_harness.results.schema import metric_names
from eval_harness.scoring.exact_match import blank_references_note
from eval_harness.scoring.rouge_words import word_notes
from eval_harness.scoring.row_scores import scored_by, some_scored_note
from eval_harness.scoring.unreadable import unreadable_answers_note, unreadable_references_note
from eval_harness.shared.differences import differences
from eval_harness.shared.files.typed_json import shown


def version_notes(systems: Sequence[System]) -> list[str]:
    """Differences that the reader should know, though they do not prevent a comparison."""
    tasks: dict[str, list[str]] = {}
    for system in systems[1:]:
        for task, fingerprint in system.fingerprints.items():
            first = systems[0].fingerprints.get(task, fingerprint)
            for key, ours, theirs in differences(first.versions, fingerprint.versions):
                # Metrics that only some systems have are named below.
                if key == "rouge_tokenizer" and "not set" in (ours, theirs):
                    continue
                note = f"{key} is {ours} for {systems[0].name} and {theirs} for {system.name}"
                tasks.setdefault(note, []).append(task)
    notes = [*systems[0].notes]
    notes += [f"{', '.join(names)}: {note}" for note, names in tasks.items()]
    notes += _metric_notes(systems)
    notes += _lm_eval_notes(systems)
    if any(not system.fingerprints and not system.lm_eval for system in systems):
        notes.append(
            "prediction files do not record how they were made: only their rows are known to be "
            "the same"
        )
    return notes


def reference_notes(tables: Mapping[str, dict[str, Any]]) -> list[str]:
    """What metrics cannot see of the references, which are the same for all systems, and answers.

    Args:
        tables: by system, see `Comparisons.systems`; a metric may be in one of them only.
    """
    notes: dict[str, None] = {}
    for name, table in tables.items():
        for task, metrics in table["tasks"].items():
            scored = metrics.get("num_scored,none", metrics["num_rows"])
            some = some_scored_note(scored, metrics["num_rows"])
            numbers = unreadable_references_note(metrics, scored)
            for note in (some, *word_notes(metrics, scored), numbers):
                notes |= {f"{task}: {note}": None} if note else {}
            unreadable = unreadable_answers_note(metrics)
            notes |= {f"{task}, {name}: {unreadable}": None} if unreadable else {}
    return list(notes)


def blank_notes(systems: Sequence[System]) -> list[str]:
    """Where exact match takes an empty answer for right; references are the same for all."""
    notes = []
    for task, samples in systems[0].samples.items():
        scored = scored_by(samples, "exact_match")
        note = blank_references_note([sample.target for sample in scored])
        notes += [f"{task}: {note}"] if note else []
    return notes


def _metric_notes(systems: Sequence[System]) -> list[str]:
    """Names the scores that only some systems have: they are not compared, and would be missed."""
    notes = []
    for task in systems[0].samples:
        having: list[set[str]] = [set(metric_names(system.samples[task])) for system in systems]
        for metric in sorted(having[0].union(*having) - having[0].intersection(*having)):
            names = [s.name for s, found in zip(systems, having, strict=True) if metric in found]
            notes.append(f"{task}: {metric} is not compared, since only {', '.join(names)} has it")
    return notes


def _lm_eval_notes(systems: Sequence[System]) -> list[str]:
    """What is known to differ between runs of lm-eval, and what is not known."""
    theirs = [system for system in systems if system.lm_eval]
    if not theirs:
        return []
    notes = [
        "lm-eval's results do not record all settings: rows, references and what is said here were "
        "compared"
    ]
    for task in systems[0].samples:
        for system in theirs:
            if system.lm_eval[task].left_out:
                left_out = ", ".join(map(shown, system.lm_eval[task].left_out))
                notes.append(f"{task}: {left_out} of {system.name} is no mean over rows: left out")
        num_different = sum(
            len({system.samples[task][row].prompt for system in systems}) > 1
            for row in range(len(systems[0].samples[task]))
        )
        if num_different:
            notes.append(f"{task}: {num_different} rows were asked with different prompts")
        settings = [_generation(system, task) for system in systems]
        for system, found in zip(systems[1:], settings[1:], strict=True):
            for key, a, b in differences(settings[0], found):
                names = f"{a} for {systems[0].name} and {b} for {system.name}"
                notes.append(f"{task}: {key} is {names}")
    return notes


def _generation(system: System, task: str) -> dict[str, Any]:
    """The generation settings of a task's first row, as lm-eval names them."""
    request = system.samples[task][0].arguments.get("gen_args_0")
    settings = request.get("arg_1") if isinstance(request, dict) else None
    known = ("until", "max_gen_toks", "do_sample", "temperature")
    return {k: settings[k] for k in known if k in settings} if isinstance(settings, dict) else {}
