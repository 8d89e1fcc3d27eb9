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
        "--tasks", "-t", required=True, metavar="NAME,...", help="names or YAML files"
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="TASK=PATH", help="local rows of a task"
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )


def run(args: argparse.Namespace) -> int:
    """Prints one line for each task. Returns 0."""
    from eval_harness.benchmarks import data_digest, find_benchmarks, load_rows, select_benchmarks
    from eval_harness.scoring.rouge_words import num_without_words

    for benchmark in select_benchmarks(args.tasks, find_benchmarks(args.include_path), args.data):
        rows = load_rows(benchmark)
        references = sum(len(row.references) for row in rows)
        wordless = num_without_words(row.references for row in rows)
        with_input = sum(bool(row.input) for row in rows)
        conversations = sum(row.conversation is not None for row in rows)
        sys.stdout.write(
            f"{benchmark.task}: {len(rows)} rows, {with_input} with an input, "
            + (f"{conversations} with messages, " if conversations else "")
            + f"{references} references, metrics {', '.join(benchmark.metrics)}, data "
            f"{data_digest(rows)}, from {benchmark.location()}"
            + (f"; {wordless} rows have no reference with a word for ROUGE-L" if wordless else "")
            + "\n"
        )
    return 0
