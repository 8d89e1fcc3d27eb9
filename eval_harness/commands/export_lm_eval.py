"""`eval-harness export-lm-eval`: the benchmarks as task files of lm-evaluation-harness."""

import argparse
import sys

from eval_harness.protocols.protocol import PROTOCOLS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "export-lm-eval",
        help="write the benchmarks as lm-eval task files",
        description="Writes task files for lm-evaluation-harness: lm-eval run --include_path DIR "
        "--tasks distillens_self_inst ...",
    )
    parser.add_argument("folder", metavar="DIR", help="made if missing; must hold no other tasks")
    parser.add_argument("--tasks", "-t", metavar="NAME,...", help="default: all")
    parser.add_argument(
        "--data", action="append", default=[], metavar="TASK=PATH", help="local rows of a task"
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )
    parser.add_argument(
        "--protocol",
        default="default",
        help=f"{', '.join(PROTOCOLS)}: length and temperature",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints their names. Returns 0."""
    from eval_harness.benchmarks import find_benchmarks, select_benchmarks
    from eval_harness.benchmarks.lm_eval_export import export_tasks
    from eval_harness.protocols.protocol import make_protocol

    known = find_benchmarks(args.include_path)
    benchmarks = select_benchmarks(args.tasks or ",".join(known), known, args.data)
    for path in export_tasks(benchmarks, make_protocol(args.protocol), args.folder):
        sys.stdout.write(f"{path}\n")
    return 0
