"""Runs a study: the teacher's answers, search, final runs, evaluation, equal compute."""

from pathlib import Path

from distillens_plugin.study import state
from distillens_plugin.study.compute import compute_runs_of, equal_compute_steps
from distillens_plugin.study.evaluation import evaluation_command, is_evaluated
from distillens_plugin.study.evaluation_group import group_jobs, in_groups
from distillens_plugin.study.executor import Command, Executor
from distillens_plugin.study.generated import are_generated, generated_file, generation_command
from distillens_plugin.study.jobs import Job, run_jobs
from distillens_plugin.study.plan import Run, make_run
from distillens_plugin.study.search import Choice, num_stages, stage_runs, update
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
        with study_lock(Path(study.output_dir)) as lock:
            self.lock = lock.descriptor
            self._generate()
            choices = self._search()
            main = main_runs(study, choices)
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
                if not choice.failed
            }
            self._train(f"search, grid {stage + 1}", [r for group in runs.values() for r in group])
            for name, group in runs.items():
                update(choices[name], group)
        for name, choice in choices.items():
            if choice.failed:
                self.failed[f"tune/{name}"] = (
                    "no setting of its grid gave a model; it has no final run"
                )
            elif choice.tried:
                say(f"{name}: best of {len(choice.tried)} settings: {describe(choice.settings)}")
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
    commands = []
    trained = state.is_trained(run, overwrite=overwrite)
    if not trained:
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
