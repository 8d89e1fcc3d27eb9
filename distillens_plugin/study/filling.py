"""A teacher cache that is not full takes one run at a time, and a study starts several."""

from collections.abc import Iterable

from distillens_plugin.study.plan import Run
from distillens_plugin.study.state import is_trained
from distillens_plugin.teacher_cache.choice import fill_command, num_lacking
from eval_harness.errors import DistillensError


def refuse_to_fill_together(runs: Iterable[Run]) -> None:
    """Refuses runs at the same time of which one would fill a cache and the others be turned away.

    Raises:
        DistillensError: names the cache, and the command that fills it.
    """
    seen: set[str] = set()
    for run in runs:
        if run.method in seen or run.recipe.teacher_cache is None:
            continue
        if is_trained(run, overwrite=True):
            continue
        seen.add(run.method)
        if num_lacking(run.recipe):
            raise DistillensError(
                f"{run.recipe.where('teacher_cache.path')}: {run.recipe.teacher_cache.path} is not "
                "full, and while one run fills it no other can use it; "
                f"{fill_command(run.recipe)}, or run one at a time (--jobs 1)"
            )
