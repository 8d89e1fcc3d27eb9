"""`--validate` and `--dry-run`: what would be run, whether it can be, and how long it takes."""

import os
import re
import subprocess
from collections.abc import Iterator

from distillens_plugin.study.caches import check_caches
from distillens_plugin.study.child import import_paths
from distillens_plugin.study.compute import extended_methods
from distillens_plugin.study.evaluation import evaluation_folder, is_evaluated
from distillens_plugin.study.generated import are_generated, generated_file
from distillens_plugin.study.jobs import duration
from distillens_plugin.study.local import environments
from distillens_plugin.study.plan import Run, num_steps_or_epochs
from distillens_plugin.study.records import read_json
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice, num_stages, search_so_far, stage_runs
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import DONE, has_diverged, is_trained, summary
from eval_harness.errors import DistillensError

_ESTIMATE = re.compile(r"about (\d+(?:\.\d+)?) (s|min|h) for (\d+) steps")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def validate(study: Study) -> Iterator[str]:
    """Checks every recipe of the study as `run --validate` does, a method at a time.

    A search's settings mostly change numbers: each is read as a recipe, each method is checked in
    full once, and its teacher cache once for everything that its runs ask of one.

    Yields:
        A line for each method, and one for each check that was skipped, once.
    Raises:
        DistillensError: the first mistake; names the method.
    """
    from distillens_plugin.preflight.validate import validate_without_weights

    printed: set[str] = set()
    ready: list[str] = []
    for name, method in study.methods.items():
        searched = [
            run for stage in range(num_stages(study)) for run in stage_runs(study, name, stage, {})
        ]
        final = main_runs(study, {name: Choice()})[name]
        for run in [*searched, *final]:
            assert run.recipe is not None  # reading it is the check
        if method.generate is not None and not generated_file(study, name).is_file():
            yield f"skipped {name} because the study generates its training data first"
            continue
        try:
            lines = validate_without_weights(final[0].recipe, overwrite=True)
        except DistillensError as error:
            raise DistillensError(f"{study.where('methods', name)}: {error}") from None
        settings = len({run.folder.parent for run in searched})
        yield f"ok {name}: {len(final)} final runs" + (
            f", {settings} settings to search" if settings else ""
        )
        for line in lines:
            if line.startswith("skipped") and line not in printed:
                printed.add(line)
                yield f"  {line}"
        ready.append(name)
    yield from check_caches(study, ready)
    if study.evaluation is not None:
        yield (
            f"ok evaluation: {', '.join(study.evaluation.tasks)} by "
            f"{', '.join(study.evaluation.protocols)}"
        )


def dry_run(study: Study, num_jobs: int | None) -> Iterator[str]:
    """The plan, and an estimate of its time. Writes nothing.

    Yields:
        Lines to print.
    """
    choices, stages = search_so_far(study)
    for choice in choices.values():
        # Nothing searched yet: the plan shows the recipe's own settings.
        choice.tried = [entry for entry in choice.tried if not entry.missing]
    main = main_runs(study, choices)
    yield from _answers(study)
    phases = [
        (f"search, grid {number}", list({run.name: run for run in runs}.values()))
        for number, runs in enumerate(stages, start=1)
    ]
    phases.append(("final runs", [run for runs in main.values() for run in runs]))
    for phase, runs in phases:
        yield f"{phase}: {len(runs)} runs"
        for run in runs:
            yield f"  {run.name}{_standing(run)}"
    if study.evaluation is not None:
        yield from _evaluations(study, phases[-1][1])
    extended = extended_methods(study, main)
    if extended and study.budget.equal_compute is not None:
        clock = study.budget.equal_compute.clock
        yield (
            f"equal compute: {len(extended) * len(study.seeds)} runs ({', '.join(extended)}), each "
            f"with the training time of {clock}; the final runs decide how many steps that is"
        )
    yield from _times(study, phases, main, len(environments(num_jobs)))


def _standing(run: Run) -> str:
    if is_trained(run, overwrite=True):
        return "  done"
    return "  diverged" if run.kind == "tune" and has_diverged(run) else ""


def _answers(study: Study) -> Iterator[str]:
    methods = [name for name, method in study.methods.items() if method.generate is not None]
    if methods:
        yield f"the teacher's answers: {len(methods)} files"
    for name in methods:
        done = are_generated(study, name, overwrite=True)
        yield f"  generate/{name}{'  done' if done else ''}"


def _evaluations(study: Study, runs: list[Run]) -> Iterator[str]:
    assert study.evaluation is not None
    protocols = study.evaluation.protocols
    yield f"evaluations of the final runs: {len(runs) * len(protocols)}"
    for run in runs:
        for protocol in protocols:
            done = is_trained(run, overwrite=True) and is_evaluated(run, protocol, overwrite=True)
            yield f"  {run.name}/evaluation/{protocol}{'  done' if done else ''}"


def _times(
    study: Study, phases: list[tuple[str, list[Run]]], main: dict[str, list[Run]], slots: int
) -> Iterator[str]:
    per_run: dict[str, float] = {}
    yield "time of one run:"
    for name, runs in main.items():
        measured = [summary(run)["seconds"] for run in runs if is_trained(run, overwrite=True)]
        if measured:
            per_run[name] = sum(measured) / len(measured)
            yield f"  {name}: {duration(per_run[name])} (mean of {len(measured)} finished runs)"
            continue
        estimate = _one_step(runs[0])
        if isinstance(estimate, str):
            yield f"  {name}: unknown because its trial step failed: {estimate}"
        else:
            per_run[name] = estimate
            yield f"  {name}: at most about {duration(estimate)} (from one real step, the first)"
    known = set(per_run)
    total = 0.0
    for _, runs in phases:
        for run in runs:
            if run.method in known and not _standing(run):
                total += per_run[run.method] * _share(run, main[run.method][0])
    clock = study.budget.equal_compute
    if clock is not None:
        num_runs = len(extended_methods(study, main)) * len(study.seeds)
        total += per_run.get(clock.clock, 0.0) * num_runs
    missing = [name for name in main if name not in known]
    yield (
        f"remaining training: about {duration(total / slots)} with {slots} at a time"
        + (f", without {', '.join(missing)}" if missing else "")
    )
    if study.evaluation is not None:
        yield _evaluation_time(study, main, slots)


def _evaluation_time(study: Study, main: dict[str, list[Run]], slots: int) -> str:
    assert study.evaluation is not None
    protocols = study.evaluation.protocols
    runs = [run for group in main.values() for run in group]
    seconds: list[float] = []
    num_left = 0
    for run in runs:
        for protocol in protocols:
            if is_trained(run, overwrite=True) and is_evaluated(run, protocol, overwrite=True):
                seconds.append(read_json(evaluation_folder(run, protocol) / DONE)["seconds"])
            else:
                num_left += 1
    if not seconds:
        return f"remaining evaluation: {num_left} evaluations, not timed yet"
    left = sum(seconds) / len(seconds) * num_left / slots
    return f"remaining evaluation: about {duration(left)} (from {len(seconds)} finished ones)"


def _one_step(run: Run) -> float | str:
    """Seconds of the whole run by the runner's own --dry-run, or why they are unknown."""
    command = run.command("--dry-run")
    done = subprocess.run(
        command,
        env={**os.environ, **environments(1)[0], **import_paths(trusted=run.study.is_trusted)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = _ESTIMATE.search(done.stdout)
    if done.returncode != 0 or found is None:
        said = [line for line in done.stderr.split("\n") if line.strip()]
        return said[-1] if said else f"exit code {done.returncode}"
    return float(found.group(1)) * _UNITS[found.group(2)]


def _share(run: Run, final: Run) -> float:
    """A search run's length as a share of the final runs'."""
    unit, length = num_steps_or_epochs(run.recipe)
    final_unit, final_length = num_steps_or_epochs(final.recipe)
    return length / final_length if unit == final_unit else 1.0
