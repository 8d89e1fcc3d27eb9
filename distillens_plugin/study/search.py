"""The search for each method's settings on the validation split, grid after grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from distillens_plugin.study.plan import Run, grid, make_run, slug
from distillens_plugin.study.short_keys import Settings
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import is_trained, validation_nll

# A search run's own `best` model, as the final runs are judged by theirs.
_CHECKPOINT = "best"


@dataclass
class Tried:
    """One setting of a method with the validation loss it gave, the mean over the search's seeds;
    None if a run failed or has not been made.
    """

    settings: Settings
    validation_nll: float | None


@dataclass
class Choice:
    """What the search found for one method.

    Attributes:
        settings: the best so far; empty for a method without grids.
        tried: every setting, over all grids.
    """

    settings: Settings = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Settings were tried, and none of them gave a model."""
        return bool(self.tried) and all(entry.validation_nll is None for entry in self.tried)


def num_stages(study: Study) -> int:
    """How many grids the method with the most has."""
    return max((len(method.tune) for method in study.methods.values()), default=0)


def stage_runs(study: Study, method: str, stage: int, best: Settings) -> list[Run]:
    """The runs of a method's grid number `stage`; settings of the grids before it are fixed.

    The same setting in two grids is the same run.
    """
    spec = study.methods[method]
    if stage >= len(spec.tune) or study.tune is None:
        return []
    return [
        make_run(study, "tune", method, seed, chosen={**best, **settings})
        for settings in grid(spec.tune[stage])
        for seed in study.tune.seeds
    ]


def update(choice: Choice, runs: Sequence[Run]) -> None:
    """Takes the runs of a finished grid into account."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(slug(run.chosen), []).append(run)
    known = {slug(entry.settings): entry for entry in choice.tried}
    for name, members in groups.items():
        entry = Tried(members[0].chosen, _mean_nll(members))
        if name not in known:
            choice.tried.append(entry)
            known[name] = entry
    found = [entry for entry in known.values() if entry.validation_nll is not None]
    if found:
        choice.settings = min(found, key=lambda entry: entry.validation_nll or 0.0).settings


def search_so_far(study: Study) -> tuple[dict[str, Choice], list[list[Run]]]:
    """What the finished search runs have found, and the runs of each grid; starts nothing.

    Each grid's runs follow from the grids before it, as far as those have been tried.
    """
    choices = {name: Choice() for name in study.methods}
    stages: list[list[Run]] = []
    for stage in range(num_stages(study)):
        stages.append([])
        for name, choice in choices.items():
            runs = stage_runs(study, name, stage, choice.settings)
            update(choice, runs)
            stages[-1] += runs
    return choices, stages


def finished_search(
    study: Study, method: str, *, overwrite: bool, stages: int | None = None
) -> tuple[Choice, list[Run]]:
    """A method's search as far as its grids are complete, and the runs that its next grid lacks.

    Args:
        overwrite: see `state.is_trained`.
        stages: how many grids to look at; None: all.
    """
    choice = Choice()
    for stage in range(num_stages(study) if stages is None else stages):
        runs = stage_runs(study, method, stage, choice.settings)
        missing = [run for run in runs if not is_trained(run, overwrite=overwrite)]
        if missing:
            return choice, missing
        update(choice, runs)
    return choice, []


def _mean_nll(runs: Sequence[Run]) -> float | None:
    losses = [
        validation_nll(run, _CHECKPOINT) if is_trained(run, overwrite=True) else None
        for run in runs
    ]
    known = [loss for loss in losses if loss is not None]
    # A setting that fails with one seed is not worth training with.
    return sum(known) / len(known) if len(known) == len(losses) else None
