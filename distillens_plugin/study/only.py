"""`--only RUN`: one run of a study, or one evaluation, beside others that do the rest."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distillens_plugin.study.compute import compute_runs_of, equal_compute_steps
from distillens_plugin.study.evaluation import evaluation_command, is_evaluated
from distillens_plugin.study.executor import Command, Executor
from distillens_plugin.study.generated import are_generated, generation_command
from distillens_plugin.study.jobs import Job, run_jobs
from distillens_plugin.study.names import KINDS, names, search_runs
from distillens_plugin.study.plan import Run, make_run
from distillens_plugin.study.runner import commands_of, main_runs, say, study_lock
from distillens_plugin.study.search import Choice, finished_search
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import is_trained
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock
from eval_harness.shared.near import did_you_mean


def run_only(study: Study, name: str, executor: Executor, *, overwrite: bool) -> dict[str, str]:
    """Runs what has this name, unless it is done.

    Several processes may do so in one study at once, each another name.

    Args:
        name: as `names.names` gives it.
        overwrite: do it again if it was done under other settings.
    Returns:
        What failed and why, by name.
    Raises:
        DistillensError: there is no such name; what it needs first is missing (names that); or
            somebody else is at it.
    """
    check_name(study, name)
    with _locks(study, name) as lock:
        commands = _commands(study, name, overwrite=overwrite)
        if not commands:
            say(f"{name}: done already")
            return {}
        return run_jobs([Job(name, commands)], executor, say=say, lock=lock)


def check_name(study: Study, name: str) -> None:
    """Refuses a name that the study does not have.

    Raises:
        DistillensError: see above; gives the nearest name.
    """
    known = [entry for kind in KINDS for entry in names(study, kind)]
    if name in known:
        return
    parts = name.split("/")
    seeds = [] if study.tune is None else [f"seed_{seed}" for seed in study.tune.seeds]
    if parts[0] == "tune" and parts[1:2] and parts[1] in study.methods and parts[-1] in seeds:
        # It may belong to a grid that is not known yet.
        _, missing = finished_search(study, parts[1], overwrite=True)
        if missing and len(study.methods[parts[1]].tune) > 1:
            raise _lacks(study, name, missing[0].name, "a run of a grid before it")
    hint = did_you_mean(name, known) or "--list shows all names"
    raise DistillensError(f"--only {name}: {study.path} has no such run; {hint}")


def _parts(name: str) -> tuple[str, str]:
    """The run's name, and the protocol if the name is that of an evaluation."""
    parts = name.split("/")
    if len(parts) == 5 and parts[3] == "evaluation":
        return "/".join(parts[:3]), parts[4]
    return name, ""


@contextlib.contextmanager
def _locks(study: Study, name: str) -> Iterator[int | None]:
    """Holds the study's folder beside other processes that run one name, and this name alone.

    Yields:
        The descriptor of the run's lock, for the children.
    """
    run, protocol = _parts(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_shared(study_lock(Path(study.output_dir))))
        lock = _lock(study, run)
        if protocol:
            # Evaluations of a run go beside each other, not beside its training.
            stack.enter_context(_shared(lock))
            lock = _lock(study, name)
        stack.enter_context(lock)
        yield lock.descriptor


def _lock(study: Study, name: str) -> FolderLock:
    # Not in the run's folder, which is emptied before a run.
    return FolderLock(
        Path(study.output_dir) / ".locks",
        name=f"{name.replace('/', '.')}.lock",
        where=f"--only {name}",
        remedy="it runs there already; wait for it",
        patience_s=2.0,
        for_children=True,
        say=say,
    )


@contextlib.contextmanager
def _shared(lock: FolderLock) -> Iterator[None]:
    lock.acquire(or_share=True)
    try:
        lock.share()
        yield
    finally:
        lock.close()


def _commands(study: Study, name: str, *, overwrite: bool) -> list[Command]:
    kind, method = name.split("/")[:2]
    if kind == "generate":
        if are_generated(study, method, overwrite=overwrite):
            return []
        return [generation_command(study, method)]
    run_name, protocol = _parts(name)
    run = _run(study, name, run_name, overwrite=overwrite)
    if protocol:
        if not is_trained(run, overwrite=overwrite):
            raise _lacks(study, name, run_name, "the run that it evaluates")
        if is_evaluated(run, protocol, overwrite=overwrite):
            return []
        return [evaluation_command(run, protocol)]
    answers = study.methods[method].generate
    if answers is not None and not are_generated(study, method, overwrite=overwrite):
        raise _lacks(study, name, f"generate/{method}", "the teacher's answers")
    return commands_of(run, overwrite=overwrite)


def _run(study: Study, name: str, run_name: str, *, overwrite: bool) -> Run:
    """The run of that name, with the settings that the study's finished runs give it."""
    kind, method = run_name.split("/")[:2]
    if kind == "tune":
        return search_runs(study)[run_name]
    seed = int(run_name.rpartition("_")[2])
    clock = study.budget.equal_compute
    if kind == "main" or clock is None:
        choice = _choice(study, name, method, overwrite=overwrite)
        return make_run(study, "main", method, seed, chosen=choice.settings)
    # Steps depend on the times of all seeds: with some of them, each process would find others.
    choices = {
        needed: _choice(study, name, needed, overwrite=overwrite)
        for needed in (clock.clock, method)
    }
    main = main_runs(study, choices)
    for run in (run for runs in main.values() for run in runs):
        if not is_trained(run, overwrite=overwrite):
            raise _lacks(study, name, run.name, "a run whose time decides its steps")
    steps = equal_compute_steps(study, main)
    if method not in steps:
        raise DistillensError(f"--only {name}: the runs of {method} were too short to be timed")
    settings = {method: choices[method].settings}
    runs = compute_runs_of(study, settings, {method: steps[method]})[method]
    return next(run for run in runs if run.seed == seed)


def _choice(study: Study, name: str, method: str, *, overwrite: bool) -> Choice:
    choice, missing = finished_search(study, method, overwrite=overwrite)
    if missing:
        raise _lacks(study, name, missing[0].name, "a run of the search for its settings")
    if choice.failed:
        raise DistillensError(
            f"--only {name}: the loss was not finite with any setting of the grid of {method}; it "
            "has no final run"
        )
    return choice


def _lacks(study: Study, name: str, needed: str, what: str) -> DistillensError:
    return DistillensError(
        f"--only {name}: it needs {needed} first ({what}), which is not done; run "
        f"distillens study {study.path} --only {needed}"
    )
