"""The evaluations of several runs in one process, so that they share its start, and vLLM's engine.

It only saves time: a run that a group leaves unevaluated is evaluated by a command of its own.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillens_plugin.study.evaluation import evaluation_command, is_evaluated
from distillens_plugin.study.evaluation_arguments import (
    model_arguments,
    output_path,
    shared_arguments,
)
from distillens_plugin.study.executor import Command, Executor
from distillens_plugin.study.jobs import Job
from distillens_plugin.study.plan import Run
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import LOG, is_trained


@dataclass(frozen=True)
class _Group:
    """Trained runs whose evaluations differ in the model alone."""

    protocol: str
    runs: list[Run]


def in_groups(study: Study, executor: Executor) -> bool:
    """Whether runs are evaluated together: with vLLM, unless the study says otherwise."""
    spec = study.evaluation
    if spec is None or not executor.takes_groups:
        return False
    return spec.model == "vllm" if spec.together is None else spec.together


def group_jobs(runs: Sequence[Run], executor: Executor, *, overwrite: bool) -> list[Job]:
    """A job for each group of at least two of these runs that are trained and not evaluated."""
    jobs = []
    for number, group in enumerate(_groups(runs, executor.limit or 1, overwrite=overwrite), 1):
        name = f"evaluation/{group.protocol} of {len(group.runs)} runs"
        jobs.append(Job(name, [_command(group, number)]))
    return jobs


def _groups(runs: Sequence[Run], num_slots: int, *, overwrite: bool) -> list[_Group]:
    found: dict[tuple[str, ...], _Group] = {}
    for run in runs:
        spec = run.study.evaluation
        if spec is None or not is_trained(run, overwrite=overwrite):
            continue
        for protocol in spec.protocols:
            if not is_evaluated(run, protocol, overwrite=overwrite):
                key = tuple(shared_arguments(run, protocol))
                found.setdefault(key, _Group(protocol, [])).runs.append(run)
    groups = []
    for group in found.values():
        # A GPU for each part, in which runs stay side by side.
        size = -(-len(group.runs) // num_slots)
        parts = [group.runs[start : start + size] for start in range(0, len(group.runs), size)]
        groups += [_Group(group.protocol, part) for part in parts if len(part) > 1]
    return groups


def _command(group: _Group, number: int) -> Command:
    runs, protocol = group.runs, group.protocol
    singles = [evaluation_command(run, protocol) for run in runs]
    folder = Path(runs[0].study.output_dir).resolve()
    log = folder / "evaluation" / f"{protocol}_{number}.log"
    systems = [
        json.dumps(
            {
                **model_arguments(run),
                "output_path": output_path(protocol),
                "working_folder": str(run.folder.resolve()),
            }
        )
        for run in runs
    ]

    def before() -> None:
        for single in singles:
            if single.before is not None:
                single.before()

    def after(seconds: float) -> None:
        for run, single in zip(runs, singles, strict=True):
            if single.after is not None:
                single.after(seconds / len(runs))
            with (run.folder / LOG).open("a", encoding="utf-8") as file:
                place = os.path.relpath(log, run.folder.resolve())
                file.write(f"{output_path(protocol)}: with other runs; printed to {place}\n")

    return Command(
        [*shared_arguments(runs[0], protocol), "--systems", *systems],
        log,
        working_folder=folder,
        before=before,
        after=after,
        writes=tuple(path for single in singles for path in single.writes),
        reads=tuple(path for single in singles for path in single.reads),
    )
