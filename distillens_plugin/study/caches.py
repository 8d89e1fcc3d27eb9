"""What the runs of a study find in their teacher caches, before any of them starts."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.study.plan import Run, make_run
from distillens_plugin.study.runner import describe
from distillens_plugin.study.search import num_stages, stage_runs
from distillens_plugin.study.short_keys import Settings
from distillens_plugin.study.spec import Study
from eval_harness.errors import DistillensError


def check_caches(study: Study, methods: Sequence[str]) -> Iterator[str]:
    """Looks into the teacher caches, once for everything that the runs of a method ask of theirs.

    The methods that read the most layers come first, since their states serve the others as well.

    Args:
        methods: whose training data are there.
    Yields:
        A line for each thing that is found, with the methods that find it.
    Raises:
        DistillensError: a cache holds other states, or too few; names the method, and what its
            search changes where that is the reason.
    """
    from distillens_plugin.teacher_cache.choice import describe_choice

    found: dict[str, list[str]] = {}
    asking = [run for name in methods for run in _asking(study, name)]
    for run in sorted(asking, key=lambda run: -_num_layers(run.recipe)):
        try:
            line = describe_choice(run.recipe)
        except DistillensError as error:
            where = study.where("methods", run.method)
            raise DistillensError(f"{where}: {_which(run)}{error}") from None
        names = found.setdefault(line, [])
        if run.method not in names:
            names.append(run.method)
    for line, names in found.items():
        yield f"{line}: {', '.join(names)}"


def _asking(study: Study, method: str) -> list[Run]:
    """Runs with a cache that differ in what they ask of it: one final run, and those of the search.

    A search may change the data, or what is read of the teacher: so may its grids, of which only
    those settings are combined that differ in this.
    """
    combined: list[Settings] = [{}]
    searched: dict[str, Run] = {}
    for stage in range(num_stages(study)):
        runs = [run for best in combined for run in stage_runs(study, method, stage, best)]
        new = {_asked(run.recipe): run for run in reversed(runs)}
        combined = [run.chosen for run in new.values()] or combined
        searched |= new
    seed = study.seeds[0]
    plain = make_run(study, "main", method, seed)
    finals = [
        make_run(study, "main", method, seed, chosen=run.chosen) for run in searched.values()
    ] or [plain]
    different: dict[str, Run] = {}
    for run in [*finals, *searched.values()]:
        if run.recipe.teacher_cache is not None:
            different.setdefault(_asked(run.recipe), run)
    # What is said of a run names its settings: none where they make no difference.
    return [plain if asked == _asked(plain.recipe) else run for asked, run in different.items()]


def _asked(recipe: Recipe) -> str:
    """What decides which rows and states of a teacher are read, and how they are stored."""
    parts: dict[str, Any] = {
        "models": recipe.models.model_dump(),
        "rows": recipe.datasets.train.model_dump(),
        "cache": recipe.teacher_cache and recipe.teacher_cache.model_dump(),
        "hooks": recipe.train.teacher and recipe.train.teacher.model_dump(),
        "precision": recipe.mixed_precision,
        "terms": [term.criterion.key for term in recipe.train.criterion.kwargs.sub_terms.values()],
        "layers": {name: paired.layers.model_dump() for name, paired in recipe.layer_terms()},
    }
    return json.dumps(parts, sort_keys=True, default=repr)


def _which(run: Run) -> str:
    """The run for people, where the study file alone does not say which is meant."""
    if run.kind == "tune":
        return f"its search, with {describe(run.chosen)}: "
    return f"with {describe(run.chosen)}: " if run.chosen else ""


def _num_layers(recipe: Recipe) -> int:
    layers = [paired.layers for _, paired in recipe.layer_terms()]
    listed = {layer for each in layers for layer in each.teacher or ()}
    return max(len(listed), *(each.auto or 0 for each in layers), 0)
