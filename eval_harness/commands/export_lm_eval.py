"""`eval-harness export-lm-eval`: the benchmarks as task files of lm-evaluation-harness."""

import argparse
import sys

from eval_harness.commands.flags.rouge_tokenizer import add_tokenizer_flag
from eval_harness.protocols.protocol import PROTOCOLS
from eval_harness.shared.text.template_table import TEMPLATES


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "export-lm-eval",
        help="write the benchmarks as lm-eval task files",
        description="Writes task files for lm-evaluation-harness, and prints their names on "
        "standard output and the lm_eval command that runs them on standard error.",
    )
    parser.add_argument("folder", metavar="DIR", help="made if missing; must hold no other tasks")
    parser.add_argument(
        "--tasks",
        "-t",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="separated by spaces or commas; default: all that compare rows with references",
    )
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
    parser.add_argument(
        "--template",
        help=f"{', '.join(TEMPLATES)}, or a format string; default: the benchmark's, else the "
        "protocol's",
    )
    add_tokenizer_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints their names and the command. Returns 0."""
    from dataclasses import replace

    from eval_harness.benchmarks import find_benchmarks, select_benchmarks
    from eval_harness.benchmarks.lm_eval_export import (
        can_be_exported,
        export_tasks,
        lm_eval_command,
    )
    from eval_harness.protocols.protocol import make_protocol
    from eval_harness.scoring.metrics import metrics_with
    from eval_harness.shared.text.template_table import check_template

    known = find_benchmarks(args.include_path)
    exportable = [name for name, benchmark in known.items() if can_be_exported(benchmark)]
    tasks = ",".join(args.tasks or exportable)
    benchmarks = [
        replace(benchmark, metrics=metrics_with(benchmark.metrics, args.rouge_tokenizer))
        for benchmark in select_benchmarks(tasks, known, args.data)
    ]
    if args.template is not None:
        check_template(args.template)
        benchmarks = [replace(benchmark, template=args.template) for benchmark in benchmarks]
    protocol = make_protocol(args.protocol)
    command = lm_eval_command(benchmarks, protocol, args.folder)
    for path in export_tasks(benchmarks, protocol, args.folder):
        sys.stdout.write(f"{path}\n")
    print(f"eval-harness: run them with: {command}", file=sys.stderr)
    return 0
