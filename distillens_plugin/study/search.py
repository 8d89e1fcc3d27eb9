"""The search for each method's settings on the validation split, grid after grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from distillens_plugin.study.plan import Run, grid, make_run, slug
from distillens_plugin.study.short_keys import Settings
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import has_diverged, is_trained, validation_nll


@dataclass
class Tried:
    """One setting of a method, and what its runs gave.

    Attributes:
        validation_nll: mean over the search's seeds; None unless every run gave one.
        missing: names of the runs that have not been made, or failed in another way than by a loss
            that is not finite.
    """

    settings: Settings
    validation_nll: float | None
    missing: list[str] = field(default_factory=list)

    @property
    def has_diverged(self) -> bool:
        """It was tried, and is out."""
        return self.validation_nll is None and not self.missing


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

    @property
    def missing(self) -> list[str]:
        """Names of the runs that must be made before the search can decide."""
        return [name for entry in self.tried for name in entry.missing]


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
        entry = _tried(members)
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
        missing = [run for run in runs if not is_over(run, overwrite=overwrite)]
        if missing:
            return choice, missing
        update(choice, runs)
    return choice, []


def is_over(run: Run, *, overwrite: bool) -> bool:
    """Whether a search run has nothing more to say: it is trained, or its loss was not finite.

    Args:
        overwrite: see `state.is_trained`.
    """
    return is_trained(run, overwrite=overwrite) or has_diverged(run)


def _tried(runs: Sequence[Run]) -> Tried:
    """Of one setting, a run for each seed of the search."""
    settings = runs[0].chosen
    missing = [run.name for run in runs if not is_over(run, overwrite=True)]
    # A setting that diverges with one seed is not worth training with.
    if missing or any(not is_trained(run, overwrite=True) for run in runs):
        return Tried(settings, None, missing)
    checkpoint = _judged_by(runs[0].study)
    losses = [validation_nll(run, checkpoint) for run in runs]
    known = [loss for loss in losses if loss is not None]
    return Tried(settings, sum(known) / len(known) if len(known) == len(losses) else None)


def _judged_by(study: Study) -> str:
    """The model of a run that counts, in the search as in the final runs."""
    return study.evaluation.checkpoint if study.evaluation is not None else "best"
