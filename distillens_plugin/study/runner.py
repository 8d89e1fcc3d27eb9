"""Runs a study: the teacher's answers, search, final runs, evaluation, equal compute."""

from pathlib import Path

from distillens_plugin.study import state
from distillens_plugin.study.compute import compute_runs_of, equal_compute_steps
from distillens_plugin.study.evaluation import evaluation_command, is_evaluated
from distillens_plugin.study.evaluation_group import group_jobs, in_groups
from distillens_plugin.study.executor import Command, Executor
from distillens_plugin.study.filling import refuse_to_fill_together
from distillens_plugin.study.generated import are_generated, generated_file, generation_command
from distillens_plugin.study.jobs import Job, run_jobs
from distillens_plugin.study.plan import Run, make_run
from distillens_plugin.study.search import (
    Choice,
    is_over,
    num_stages,
    search_so_far,
    stage_runs,
    update,
)
from distillens_plugin.study.spec import Study
from eval_harness.shared.files.lock import FolderLock


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def study_lock(folder: Path) -> FolderLock:
    """One study at a time in a folder; its children hold the lock too."""
    return FolderLock(
        folder,
        name=".study.lock",
        where="output_dir",
        remedy="another study, or a run of one (--only), works there; wait for it, or name another "
        "folder with --output_dir",
        # The children of a study that was just killed need a moment to end.
        patience_s=2.0,
        for_children=True,
        say=say,
    )


class Runner:
    """Goes through a study's phases; what is done already is skipped.

    Args:
        executor: what runs the commands.
        overwrite: do again what was done under other settings.
    """

    def __init__(self, study: Study, executor: Executor, *, overwrite: bool) -> None:
        self.study = study
        self.executor = executor
        self.overwrite = overwrite
        self.failed: dict[str, str] = {}
        self.lock: int | None = None

    def run(self) -> dict[str, str]:
        """All phases.

        Returns:
            What failed and why, by the name of the run.
        Raises:
            DistillensError: a recipe is wrong, or a run was done under another one (see
                `state.is_trained`). What can be checked at the start is checked at the start.
        """
        study = self.study
        for name in study.methods:
            for run in [*main_runs(study, {name: Choice()})[name], *stage_runs(study, name, 0, {})]:
                assert run.recipe is not None  # reading it is the check
        if self.executor.limit != 1:
            choices, stages = search_so_far(study)
            finals = [run for runs in main_runs(study, choices).values() for run in runs]
            refuse_to_fill_together([*(run for stage in stages for run in stage), *finals])
        with study_lock(Path(study.output_dir)) as lock:
            self.lock = lock.descriptor
            self._generate()
            choices = self._search()
            main = {
                name: runs
                for name, runs in main_runs(study, choices).items()
                if _search_of(name) not in self.failed
            }
            self._train("final runs", [run for runs in main.values() for run in runs])
            steps = equal_compute_steps(study, main)
            settings = {name: choice.settings for name, choice in choices.items()}
            compute = compute_runs_of(study, settings, steps)
            self._train("equal compute", [run for runs in compute.values() for run in runs])
        return self.failed

    def _search(self) -> dict[str, Choice]:
        choices = {name: Choice() for name in self.study.methods}
        for stage in range(num_stages(self.study)):
            runs = {
                name: stage_runs(self.study, name, stage, choice.settings)
                for name, choice in choices.items()
                if not choice.failed and not choice.missing
            }
            self._train(f"search, grid {stage + 1}", [r for group in runs.values() for r in group])
            for name, group in runs.items():
                update(choices[name], group)
        for name, choice in choices.items():
            if choice.missing:
                # A full disk or a cache in use would else decide which setting is the best.
                self.failed[_search_of(name)] = (
                    f"the search lacks {', '.join(choice.missing)}; mend what stopped "
                    f"{'it' if len(choice.missing) == 1 else 'them'} (or delete the setting from "
                    "the grid) and repeat the command; it has no final run until then"
                )
            elif choice.failed:
                self.failed[_search_of(name)] = (
                    "the loss was not finite with any setting of its grid; it has no final run"
                )
            elif choice.tried:
                say(f"{name}: best of {_counted(choice)}: {describe(choice.settings)}")
        return choices

    def _generate(self) -> None:
        jobs = [
            Job(f"generate/{name}", [generation_command(self.study, name)])
            for name, method in self.study.methods.items()
            if method.generate is not None
            and not are_generated(self.study, name, overwrite=self.overwrite)
        ]
        self._run_jobs(jobs)

    def _train(self, phase: str, runs: list[Run]) -> None:
        """Trains (and evaluates, except in the search) what is not done."""
        unique = {run.name: run for run in runs}
        todo = self._todo(unique)
        if unique:
            say(f"{phase}: {len(unique)} runs, {len(unique) - len(todo)} of them done already")
        if in_groups(self.study, self.executor) and any(run.kind != "tune" for run in runs):
            self._train_and_group(unique, todo)
            todo = self._todo(unique)
        self._run_jobs([Job(name, commands) for name, commands in todo.items()])

    def _todo(self, runs: dict[str, Run]) -> dict[str, list[Command]]:
        """What is left of each, by its name."""
        commands = {
            name: commands_of(run, overwrite=self.overwrite)
            for name, run in runs.items()
            if name not in self.failed and f"generate/{run.method}" not in self.failed
        }
        return {name: left for name, left in commands.items() if left}

    def _train_and_group(self, runs: dict[str, Run], todo: dict[str, list[Command]]) -> None:
        """Trains all, and evaluates together those that can be."""
        untrained = [
            Job(name, commands[:1])
            for name, commands in todo.items()
            if not state.is_trained(runs[name], overwrite=self.overwrite)
        ]
        self._run_jobs(untrained)
        left = [run for name, run in runs.items() if name not in self.failed]
        groups = group_jobs(left, self.executor, overwrite=self.overwrite)
        failed = run_jobs(groups, self.executor, say=say, lock=self.lock) if groups else {}
        if failed:
            say("what they left is evaluated run by run")

    def _run_jobs(self, jobs: list[Job]) -> None:
        if jobs:
            self.failed |= run_jobs(jobs, self.executor, say=say, lock=self.lock)


def commands_of(run: Run, *, overwrite: bool) -> list[Command]:
    """What is left of a run: its training, and its evaluations except in the search."""
    commands: list[Command] = []
    if run.kind == "tune" and is_over(run, overwrite=overwrite):
        return commands
    trained = state.is_trained(run, overwrite=overwrite)
    if not trained:
        state.check_resumes(run, overwrite=overwrite)
        commands.append(_training(run))
    if run.kind == "tune" or run.study.evaluation is None:
        return commands
    for protocol in run.study.evaluation.protocols:
        if not trained or not is_evaluated(run, protocol, overwrite=overwrite):
            commands.append(evaluation_command(run, protocol))
    return commands


def _training(run: Run) -> Command:
    answers = run.study.methods[run.method].generate is not None
    return Command(
        run.command(),
        run.folder / state.LOG,
        before=lambda: state.start(run),
        writes=(run.train_folder,),
        reads=(generated_file(run.study, run.method),) if answers else (),
    )


def _search_of(method: str) -> str:
    """What a failed search is called among the failures."""
    return f"tune/{method}"


def _counted(choice: Choice) -> str:
    diverged = sum(entry.has_diverged for entry in choice.tried)
    told = f" ({diverged} diverged)" if diverged else ""
    return f"{len(choice.tried)} setting{'' if len(choice.tried) == 1 else 's'}{told}"


def main_runs(study: Study, choices: dict[str, Choice]) -> dict[str, list[Run]]:
    """The final runs of each method that has settings to train with."""
    return {
        name: [make_run(study, "main", name, seed, chosen=choice.settings) for seed in study.seeds]
        for name, choice in choices.items()
        if not choice.failed
    }


def describe(settings: dict[str, object]) -> str:
    """Settings for people."""
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "the recipe's own"
