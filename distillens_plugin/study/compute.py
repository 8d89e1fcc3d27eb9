"""Equal compute: how many steps each method can take in the clock method's training time."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillens_plugin.study.plan import Run, make_run
from distillens_plugin.study.records import EXPECTED, StepsFile, read_json
from distillens_plugin.study.short_keys import Settings
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import is_trained, summary
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.typed_json import check

FILE = "equal_compute.json"


def extended_methods(study: Study, main: Mapping[str, Sequence[Run]]) -> list[str]:
    """The methods that get the clock's time: those named, else all without a lens."""
    spec = study.budget.equal_compute
    if spec is None:
        return []
    if spec.methods is not None:
        return [name for name in spec.methods if name != spec.clock]
    return [
        name
        for name, runs in main.items()
        if name != spec.clock and runs and not runs[0].recipe.lens_terms()
    ]


def equal_compute_steps(study: Study, main: Mapping[str, Sequence[Run]]) -> dict[str, int]:
    """Steps of each extended method, from the median seconds of a step over its seeds.

    They are kept in equal_compute.json: a second call with the same recipes finds the same steps,
    whatever has been timed since. Methods without a finished run of their own or of the clock are
    left out.
    """
    spec = study.budget.equal_compute
    if spec is None:
        return {}
    path = Path(study.output_dir) / FILE
    kept = read_steps(study)
    steps: dict[str, int] = {}
    for name in extended_methods(study, main):
        clock, own = _paces(main.get(spec.clock, []), main.get(name, []))
        if clock is None or own is None:
            continue
        key = digest([run.fingerprint for run in (*main[spec.clock], *main[name])])
        if kept.get(name, {}).get("key") != key:
            trained = summary(_trained(main[spec.clock])[0])["num_steps"]
            kept[name] = {
                "key": key,
                "clock": spec.clock,
                "clock_seconds_per_step": clock,
                "seconds_per_step": own,
                "num_steps": max(1, int(trained * clock / own)),
            }
            write_json(path, kept)
        steps[name] = kept[name]["num_steps"]
    return steps


def read_steps(study: Study) -> dict[str, dict[str, Any]]:
    """What equal_compute.json holds, by method; empty if it does not exist.

    Raises:
        DistillensError: it is damaged; names file and key.
    """
    path = Path(study.output_dir) / FILE
    kept = read_json(path)
    check(StepsFile, {"methods": kept}, str(path), expected=EXPECTED)
    return kept


def compute_runs_of(
    study: Study, settings: Mapping[str, Settings], steps: Mapping[str, int]
) -> dict[str, list[Run]]:
    """The runs at equal compute.

    Args:
        settings: that the search chose, by method.
        steps: from `equal_compute_steps`.
    """
    return {
        name: [
            make_run(study, "compute", name, seed, chosen=settings[name], num_steps=num_steps)
            for seed in study.seeds
        ]
        for name, num_steps in steps.items()
    }


def _trained(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if is_trained(run, overwrite=True)]


def _paces(*methods: Sequence[Run]) -> list[float | None]:
    """Median seconds of a step of each method; None without a run that was long enough."""
    found: list[list[dict[str, Any]]] = [[summary(run) for run in _trained(m)] for m in methods]
    # Runs of older versions have a pace with their first steps alone: never mix the two.
    is_new = all(entry.get("seconds_per_step") for entries in found for entry in entries)
    paces: list[float | None] = []
    for entries in found:
        times = [
            entry["seconds_per_step"] if is_new else entry["train_seconds"] / entry["num_steps"]
            for entry in entries
            if entry["num_steps"]
        ]
        # What is rounded to nothing gives no pace.
        paces.append(statistics.median(times) if times and min(times) > 0 else None)
    return paces
