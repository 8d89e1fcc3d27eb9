"""The names of all that a study does, so that a batch system can run it one by one.

generate/<method>                    the teacher's answers
tune/<method>/<settings>/seed_<n>    a run of the search
main/<method>/seed_<n>               a final run, with its evaluations
compute/<method>/seed_<n>            one at equal compute
<run>/evaluation/<protocol>          one of its evaluations alone
"""

from typing import Literal, get_args

from distillens_plugin.study.compute import extended_methods
from distillens_plugin.study.plan import Run
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice, finished_search, num_stages, stage_runs
from distillens_plugin.study.spec import Study

Kind = Literal["generate", "tune", "main", "compute", "evaluation"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def names(study: Study, kind: Kind) -> list[str]:
    """In the order in which the study would do them, whether or not they are done.

    So the n-th name stays the same while runs finish. Of a search, the next grid's names come after
    those of the grids before it, once these are complete.
    """
    match kind:
        case "generate":
            return [f"generate/{name}" for name, how in study.methods.items() if how.generate]
        case "tune":
            return list(search_runs(study))
        case "main":
            return [run.name for runs in _final(study).values() for run in runs]
        case "compute":
            return [
                f"compute/{name}/seed_{seed}"
                for name in extended_methods(study, _final(study))
                for seed in study.seeds
            ]
        case "evaluation":
            protocols = [] if study.evaluation is None else study.evaluation.protocols
            runs = [*names(study, "main"), *names(study, "compute")]
            return [f"{run}/evaluation/{protocol}" for run in runs for protocol in protocols]


def search_runs(study: Study) -> dict[str, Run]:
    """The runs of the search by name, as far as they follow from the grids that are complete."""
    found: dict[str, Run] = {}
    complete: dict[str, Choice] = {name: Choice() for name in study.methods}
    for stage in range(num_stages(study)):
        for method, choice in list(complete.items()):
            runs = stage_runs(study, method, stage, choice.settings)
            found |= {run.name: run for run in runs}
            complete[method], missing = finished_search(
                study, method, stages=stage + 1, overwrite=True
            )
            if missing:
                del complete[method]
    return found


def _final(study: Study) -> dict[str, list[Run]]:
    # The search changes their settings, not their names.
    return main_runs(study, {name: Choice() for name in study.methods})
