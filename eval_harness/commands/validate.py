"""`eval-harness validate`: checks benchmarks and their rows without a model."""

import argparse
import sys


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "validate",
        help="check benchmarks and their rows",
        description="Reads benchmark files and all their rows, and prints a summary of each. It "
        "stops at the first fault and names file and line. Hub data is downloaded.",
    )
    parser.add_argument(
        "--tasks",
        "-t",
        required=True,
        nargs="+",
        action="extend",
        metavar="NAME",
        help="names or YAML files, separated by spaces or commas",
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="TASK=PATH", help="local rows of a task"
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )


def run(args: argparse.Namespace) -> int:
    """Prints one line for each task. Returns 0."""
    from eval_harness.benchmarks import find_benchmarks, select_benchmarks
    from eval_harness.benchmarks.summary import summary

    known = find_benchmarks(args.include_path)
    for benchmark in select_benchmarks(",".join(args.tasks), known, args.data):
        sys.stdout.write(f"{summary(benchmark)}\n")
    return 0
