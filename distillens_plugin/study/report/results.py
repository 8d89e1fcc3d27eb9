"""Everything a study's folder holds, as the report needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distillens_plugin.study.compute import compute_runs_of, extended_methods, read_steps
from distillens_plugin.study.evaluation import (
    RowScores,
    is_evaluated,
    read_scores,
    reference_notes,
)
from distillens_plugin.study.plan import Run, num_steps_or_epochs
from distillens_plugin.study.report.same_rows import same_rows_notes
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
    """What a method's runs took, means over their seeds; of the memory the most."""

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
        reference_notes: what metrics cannot see of the tasks' references, and benchmarks whose rows
            the study has used.
        time_shares: of the clock's training time, by method: those in the table of equal compute
            that kept their final runs.
    """

    study: Study
    held: str = STEPS
    tables: dict[str, Table] = field(default_factory=dict)
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reference_notes: list[str] = field(default_factory=list)
    time_shares: dict[str, float] = field(default_factory=dict)

    def label(self, method: str, budget: str) -> str:
        """What the report calls a method; at equal compute with its time, if it is not the same."""
        label = self.study.label(method)
        if budget == COMPUTE and method in self.time_shares:
            return f"{label} ({self.time_shares[method]:.2f} of the time)"
        return label


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
    if study.evaluation is not None:
        firsts = [runs[0] for runs in main.values()]
        results.reference_notes += same_rows_notes(study.evaluation, firsts)
    if not _are_equally_long(main):
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
    study, clock = results.study, results.study.budget.equal_compute
    assert clock is not None  # the caller has checked
    named = extended_methods(study, main)
    # Those of another clock are no longer of this study.
    steps = {
        name: entry["num_steps"]
        for name, entry in read_steps(study).items()
        if name in named and entry.get("clock", clock.clock) == clock.clock
    }
    results.missing += [f"compute/{name}" for name in named if name in main and name not in steps]
    runs = compute_runs_of(study, {n: c.settings for n, c in results.choices.items()}, steps)
    extended = _scores(runs, results)
    # The clock, and methods that are not given its time, keep their final runs.
    others = {n: s for n, s in scores.items() if n not in named}
    if extended:
        results.tables[COMPUTE] = make_table({**extended, **others}, references)
        own = results.costs[results.held]
        results.costs[COMPUTE] = {**_costs(runs), **{n: own[n] for n in others}}
        results.time_shares = {
            name: own[name].train_seconds / own[clock.clock].train_seconds
            for name in others
            if name != clock.clock and clock.clock in own and own[clock.clock].train_seconds
        }


def _are_equally_long(runs: Mapping[str, Sequence[Run]]) -> bool:
    """Whether final runs take, or took, as many steps as each other."""
    members = [run for group in runs.values() for run in group]
    done = [run for run in members if is_trained(run, overwrite=True)]
    steps = {summary(run)["num_steps"] for run in done}
    left = {num_steps_or_epochs(run.recipe) for run in members if run not in done}
    steps |= {length for unit, length in left if unit == "steps"}
    # How many steps an epoch has is known once one run has ended.
    epochs = {length for unit, length in left if unit == "epochs"}
    return len(steps) <= 1 and (bool(steps) or len(epochs) <= 1)


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
            spec = results.study.evaluation
            for protocol in spec.protocols if spec is not None else []:
                if not is_evaluated(run, protocol, overwrite=True):
                    results.missing.append(f"{run.name}/evaluation/{protocol}")
            for (task, protocol, metric), values in scores.items():
                rows.setdefault(Metric(task, protocol, metric), {})[run.seed] = values
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
