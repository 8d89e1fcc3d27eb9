"""Everything a study's folder holds, as the report needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distillens_plugin.study.compute import compute_runs_of, extended_methods, read_steps
from distillens_plugin.study.evaluation import RowScores, read_scores, reference_notes
from distillens_plugin.study.plan import Run
from distillens_plugin.study.report.table import MethodScores, Metric, Table, make_table
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice, search_so_far
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import is_trained, metrics, summary, validation_nll

STEPS, COMPUTE = "equal steps", "equal compute"
# Of the final runs, where the study gives methods other numbers of steps.
OWN_STEPS = "steps of their own"


@dataclass(frozen=True)
class Cost:
    """What a method's runs took, means over their seeds."""

    num_runs: int
    num_steps: float
    train_seconds: float
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Curve:
    """Validation loss of one run at each of its validations."""

    steps: list[int]
    losses: list[float]
    seconds_per_step: float


@dataclass
class Results:
    """A study so far.

    Attributes:
        tables, costs: by budget.
        held: the budget of the final runs.
        curves: by method, the final runs'.
        choices: what the search found, by method.
        missing: names of the study's runs that do not exist yet or are not evaluated.
        reference_notes: what ROUGE-L cannot see of the tasks' references.
    """

    study: Study
    held: str = STEPS
    tables: dict[str, Table] = field(default_factory=dict)
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reference_notes: list[str] = field(default_factory=list)


def collect(study: Study) -> Results:
    """Reads what is there; starts nothing.

    Raises:
        DistillensError: a file is damaged, or runs answered different rows.
    """
    results = Results(study, choices=search_so_far(study)[0])
    main = main_runs(study, results.choices)
    results.missing += [
        f"{name}: no setting of its search gave a model"
        for name in study.methods
        if name not in main
    ]
    scores = _scores(main, results)
    results.reference_notes = reference_notes(run for runs in main.values() for run in runs)
    if len({run.recipe.train.num_steps for runs in main.values() for run in runs}) > 1:
        results.held = OWN_STEPS
    results.costs[results.held] = _costs(main)
    references = {name: study.references(name) for name in study.methods}
    results.tables[results.held] = make_table(scores, references)
    results.curves = {name: curves for name, runs in main.items() if (curves := _curves(runs))}
    if study.budget.equal_compute is not None:
        _add_equal_compute(results, main, scores, references)
    return results


def _add_equal_compute(
    results: Results,
    main: dict[str, list[Run]],
    scores: dict[str, MethodScores],
    references: Mapping[str, Sequence[str]],
) -> None:
    study = results.study
    steps = {
        name: entry["num_steps"]
        for name, entry in read_steps(study).items()
        if name in extended_methods(study, main)
    }
    runs = compute_runs_of(study, {n: c.settings for n, c in results.choices.items()}, steps)
    extended = _scores(runs, results)
    # Methods without extra training time (those with a lens) keep their final runs.
    others = {n: s for n, s in scores.items() if n not in extended_methods(study, main)}
    if extended:
        results.tables[COMPUTE] = make_table({**extended, **others}, references)
        costs = {**_costs(runs), **{n: results.costs[results.held][n] for n in others}}
        results.costs[COMPUTE] = costs


def _scores(runs: Mapping[str, Sequence[Run]], results: Results) -> dict[str, MethodScores]:
    found: dict[str, MethodScores] = {}
    for name, members in runs.items():
        rows: dict[Metric, dict[int, RowScores]] = {}
        validation: dict[int, float] = {}
        for run in members:
            if not is_trained(run, overwrite=True):
                results.missing.append(run.name)
                continue
            scores = read_scores(run)
            if results.study.evaluation is not None and not scores:
                results.missing.append(f"{run.name}: not evaluated")
            for (task, protocol, metric), values in scores.items():
                rows.setdefault(Metric(task, protocol, metric), {})[run.seed] = values
            spec = results.study.evaluation
            loss = validation_nll(run, spec.checkpoint if spec is not None else "best")
            if loss is not None:
                validation[run.seed] = loss
        if rows or validation:
            found[name] = MethodScores(rows, validation)
    return found


def _costs(runs: Mapping[str, Sequence[Run]]) -> dict[str, Cost]:
    costs = {}
    for name, members in runs.items():
        found = [summary(run) for run in members if is_trained(run, overwrite=True)]
        if found:
            costs[name] = Cost(
                num_runs=len(found),
                num_steps=float(np.mean([entry["num_steps"] for entry in found])),
                train_seconds=float(np.mean([entry["train_seconds"] for entry in found])),
                seconds=float(np.mean([entry["seconds"] for entry in found])),
                peak_bytes=max(entry["peak_memory_bytes"] for entry in found),
            )
    return costs


def _curves(runs: Sequence[Run]) -> list[Curve]:
    curves = []
    for run in runs:
        if not is_trained(run, overwrite=True):
            continue
        found = summary(run)
        points = [r for r in metrics(run) if "validation_loss" in r]
        if points:
            curves.append(
                Curve(
                    steps=[point["step"] for point in points],
                    losses=[point["validation_loss"] for point in points],
                    seconds_per_step=found["train_seconds"] / max(1, found["num_steps"]),
                )
            )
    return curves
