"""`distillens study STUDY.yaml`: plans, trains, evaluates, and reports what the numbers support."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.commands.flags import add_trust, announce_torch
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from distillens_plugin.study.executor import Executor
    from distillens_plugin.study.spec import Study

# As in `study.names`, which loads too much for a help text; a test compares them.
_KINDS = ("generate", "tune", "main", "compute", "evaluation")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "study",
        help="compare methods over seeds: train, evaluate, report",
        description="Trains every method of a study with every seed, evaluates the models with "
        "eval_harness and reports what the numbers support. Finished work is skipped.",
    )
    parser.add_argument("study", metavar="STUDY", help="YAML file, or a shipped study: quickstart")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="check every recipe and setting without loading weights",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list all runs and estimate the time: from a method's finished runs, or from one real "
        "step",
    )
    parser.add_argument(
        "--report_only", action="store_true", help="rewrite the report from existing results"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; default: one per GPU, or one on a CPU (with one thread each); with "
        "--ray as many as fit",
    )
    parser.add_argument(
        "--list",
        nargs="?",
        const="all",
        choices=("all", *_KINDS),
        metavar="KIND",
        help=f"print the names that --only takes, one a line: {', '.join(_KINDS)}, or all of them",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        help="do one run with its evaluations, or one evaluation, as --list names it; others may "
        "do the rest at the same time, as in a Slurm array (docs/scale.md)",
    )
    _add_ray(parser)
    parser.add_argument("--output_dir", help="folder for everything; default: the study's")
    add_trust(parser, what="the study, its recipes and its models")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="repeat what was trained or evaluated with other settings; keep the rest",
    )


def _add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT (docs/scale.md)",
    )
    parser.add_argument(
        "--ray_gpus",
        type=float,
        metavar="N",
        help="GPUs of each run there; 0.5: two share one; default: 1 if the cluster has GPUs",
    )
    parser.add_argument(
        "--ray_cpus", type=int, metavar="N", help="CPU cores of each run there; default: 1"
    )
    parser.add_argument(
        "--ray_results",
        choices=("shared", "copied"),
        help="whether all nodes share the study's folder, or files are copied to and from those "
        "that do not; default: what the nodes see",
    )


def run(arguments: argparse.Namespace) -> int:
    """Does what the arguments ask for; returns 1 if a run failed."""
    _check_flags(arguments)
    if arguments.validate:
        announce_torch()
    from distillens_plugin.study.evaluation import check_evaluation
    from distillens_plugin.study.generated import check_generation
    from distillens_plugin.study.load import load_study

    study = load_study(arguments.study, arguments.output_dir, trust=arguments.trust_recipe)
    check_evaluation(study)
    check_generation(study)
    if arguments.validate:
        from distillens_plugin.study.checks import validate

        for line in validate(study):
            print(line, flush=True)
        return 0
    if arguments.dry_run:
        from distillens_plugin.study.checks import dry_run

        for line in dry_run(study, arguments.jobs):
            print(line, flush=True)
        return 0
    if arguments.list is not None:
        return _list(study, arguments.list)
    if arguments.report_only:
        return _report(study)
    if arguments.only is not None:
        from distillens_plugin.study.only import check_name, run_only

        check_name(study, arguments.only)
        with _executor(arguments, study) as executor:
            failed = run_only(study, arguments.only, executor, overwrite=arguments.overwrite)
        return 1 if failed else 0
    from distillens_plugin.study.report.page import require_matplotlib
    from distillens_plugin.study.report.place import check_place
    from distillens_plugin.study.runner import Runner

    # Hours of training must not end in a missing package, or in a file that is not ours to replace.
    require_matplotlib()
    check_place(Path(study.output_dir))
    with _executor(arguments, study) as executor:
        failed = Runner(study, executor, overwrite=arguments.overwrite).run()
    code = _report(study)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", flush=True)
    return 1 if failed else code


@contextlib.contextmanager
def _executor(arguments: argparse.Namespace, study: "Study") -> Iterator["Executor"]:
    """Child processes here, or a Ray cluster."""
    if arguments.ray is not None:
        from distillens_plugin.study.cluster import ray_executor
        from distillens_plugin.study.runner import say

        with ray_executor(
            study,
            arguments.ray,
            cpus=arguments.ray_cpus or 1,
            gpus=arguments.ray_gpus,
            limit=arguments.jobs,
            results=arguments.ray_results,
            say=say,
        ) as executor:
            yield executor
        return
    from distillens_plugin.study.local import LocalExecutor, environments

    slots = environments(arguments.jobs)
    yield LocalExecutor(
        slots[:1] if arguments.only is not None else slots, trusted=study.is_trusted
    )


def _check_flags(arguments: argparse.Namespace) -> None:
    modes = {
        "--validate": arguments.validate,
        "--dry-run": arguments.dry_run,
        "--report_only": arguments.report_only,
        "--list": arguments.list is not None,
        "--only": arguments.only is not None,
    }
    chosen = [flag for flag, given in modes.items() if given]
    if len(chosen) > 1:
        raise DistillensError(f"{' and '.join(chosen)} exclude each other; give one")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise DistillensError(f"--jobs {arguments.jobs}: expected a number of at least 1")
    if arguments.jobs is not None and arguments.only is not None:
        raise DistillensError("--jobs with --only: it is one run; leave --jobs out")
    _check_ray(arguments, [flag for flag in chosen if flag != "--only"])


def _check_ray(arguments: argparse.Namespace, chosen: list[str]) -> None:
    of_ray = {
        "--ray_cpus": arguments.ray_cpus,
        "--ray_gpus": arguments.ray_gpus,
        "--ray_results": arguments.ray_results,
    }
    if arguments.ray is None:
        for flag, value in of_ray.items():
            if value is not None:
                raise DistillensError(f"{flag}: expected --ray ADDRESS beside it")
        return
    if chosen:
        raise DistillensError(f"--ray with {chosen[0]}: nothing would run there; leave --ray out")
    if arguments.ray_cpus is not None and arguments.ray_cpus < 1:
        raise DistillensError(f"--ray_cpus {arguments.ray_cpus}: expected a number of at least 1")
    gpus = arguments.ray_gpus
    # Ray gives out whole GPUs, or a part of one.
    if gpus is not None and not (0 <= gpus <= 1 or (gpus.is_integer() and gpus > 0)):
        raise DistillensError(
            f"--ray_gpus {gpus:g}: expected 0, a part of 1 (so that runs share a GPU), or a whole "
            "number"
        )
    from distillens_plugin.study.cluster_connection import check_address

    check_address(arguments.ray)


def _list(study: "Study", kind: str) -> int:
    from distillens_plugin.study.names import KINDS, names

    for entry in KINDS:
        if kind in ("all", entry):
            for name in names(study, entry):
                print(name, flush=True)
    return 0


def _report(study: "Study") -> int:
    from distillens_plugin.study.report.page import write_report

    for path in write_report(study, Path(study.output_dir)):
        print(f"written: {path}", flush=True)
    return 0
