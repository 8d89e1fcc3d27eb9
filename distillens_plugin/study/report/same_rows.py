"""Benchmarks whose rows a study trained on, or chose by: their scores flatter."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.study.digests import content_digest
from distillens_plugin.study.evaluation_arguments import data_entries
from distillens_plugin.study.plan import Run
from distillens_plugin.study.spec import Evaluation
from eval_harness import find_benchmarks, select_benchmarks
from eval_harness.errors import DistillensError


def same_rows_notes(spec: Evaluation, runs: Sequence[Run]) -> list[str]:
    """A note for each benchmark whose file is that of a data set of the recipes.

    Files are compared by content; single rows that two files share are not looked for.
    """
    used: dict[str, str] = {}
    for run in runs:
        used |= dict(_used(run.recipe))
    notes: list[str] = []
    try:
        benchmarks = select_benchmarks(spec.tasks, find_benchmarks(), data_entries(spec))
    except DistillensError:  # a report may be made where the rows no longer are
        return notes
    for benchmark in benchmarks:
        if benchmark.path is not None and benchmark.path.is_file():
            how = used.get(content_digest(str(benchmark.path)))
            if how is not None:
                notes.append(f"{benchmark.task}: its rows are those {how}; its scores flatter.")
    return notes


def _used(recipe: Recipe) -> Iterator[tuple[str, str]]:
    validation = recipe.datasets.validation
    if validation is not None and Path(validation.path).is_file():
        how = "of datasets.validation, by which models and settings were chosen"
        yield content_digest(validation.path), how
    if Path(recipe.datasets.train.path).is_file():
        yield content_digest(recipe.datasets.train.path), "that the models were trained on"
