"""`eval-harness run`: generate answers with vLLM or transformers, score them, write results."""

import argparse
import sys
from typing import TYPE_CHECKING

from eval_harness.commands.flags.run_flags import add_run_flags
from eval_harness.scoring.rouge_words import word_notes

if TYPE_CHECKING:
    from eval_harness.results.schema import Results


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="generate answers to benchmarks and score them",
        description="Generates answers with vLLM (or transformers), scores them, and writes "
        "results and samples in lm-eval's layout. Repeat the command to resume an interrupted run.",
    )
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the evaluation and prints a table. Returns 0."""
    from eval_harness.commands.flags.run_settings import all_flags, publications_of, settings_of
    from eval_harness.generation.evaluate import run_evaluation
    from eval_harness.shared.files.atomic import encode_json

    flags = all_flags(args)
    settings = settings_of(flags)
    publications = publications_of(flags)
    if flags.check_integrity:
        from eval_harness.benchmarks.summary import summary

        for benchmark in settings.benchmarks:
            print(f"eval-harness: {summary(benchmark)}", file=sys.stderr)
    results, path = run_evaluation(settings)
    sys.stdout.write(_table(results))
    for line in _notes(results):
        print(line)
        print(f"eval-harness: {line}", file=sys.stderr)
    if flags.show_config:
        configs = {name: task.config for name, task in results.tasks.items()}
        sys.stdout.write(encode_json(configs, where="configs"))
    print(f"written to {path}", file=sys.stderr)
    for line in publications.send(results, path):
        print(f"eval-harness: {line}", file=sys.stderr)
    return 0


def _table(results: "Results") -> str:
    lines = ["task  rows  metric  value  stderr"]
    for task in results.tasks.values():
        for name, value in task.metrics.items():
            metric, _, _ = name.partition(",")
            error = task.metrics.get(f"{metric}_stderr,none")
            # Metrics have a standard error; the other values describe the answers.
            if error is None or metric.endswith("_stderr"):
                continue
            lines.append(
                f"{task.task}  {task.num_effective}  {metric}  {_number(value)}  {_number(error)}"
            )
    cells = [line.split("  ") for line in lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in cells
    )


def _notes(results: "Results") -> list[str]:
    """What a reader of the table must know about its numbers."""
    return [
        f"{task.task}: {note}"
        for task in results.tasks.values()
        for note in word_notes(task.metrics, task.num_effective)
    ]


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
