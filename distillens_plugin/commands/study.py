"""`distillens study STUDY.yaml`: plans, trains, evaluates, and reports what the numbers support."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.commands.flags import add_trust, announce_torch
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from distillens_plugin.study.spec import Study


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
        help="runs at a time; default: one per GPU, or one on a CPU (with one thread each)",
    )
    parser.add_argument("--output_dir", help="folder for everything; default: the study's")
    add_trust(parser, what="the study, its recipes and its models")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="repeat what was trained or evaluated with other settings; keep the rest",
    )


def run(arguments: argparse.Namespace) -> int:
    """Does what the arguments ask for; returns 1 if a run failed."""
    chosen = [
        flag
        for flag, given in (
            ("--validate", arguments.validate),
            ("--dry-run", arguments.dry_run),
            ("--report_only", arguments.report_only),
        )
        if given
    ]
    if len(chosen) > 1:
        raise DistillensError(f"{' and '.join(chosen)} exclude each other; give one")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise DistillensError(f"--jobs {arguments.jobs}: expected a number of at least 1")
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
    if arguments.report_only:
        return _report(study)
    from distillens_plugin.study.report.page import require_matplotlib
    from distillens_plugin.study.runner import Runner

    # Hours of training must not end in a missing package.
    require_matplotlib()
    failed = Runner(study, arguments.jobs, overwrite=arguments.overwrite).run()
    code = _report(study)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", flush=True)
    return 1 if failed else code


def _report(study: "Study") -> int:
    from distillens_plugin.study.report.page import write_report

    for path in write_report(study, Path(study.output_dir)):
        print(f"written: {path}", flush=True)
    return 0
