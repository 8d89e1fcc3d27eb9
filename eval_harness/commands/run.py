"""`eval-harness run`: generate answers with vLLM or transformers, score them, write results."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from eval_harness.commands.flags.run_flags import add_run_flags
from eval_harness.errors import RunFailure
from eval_harness.scoring.reference_notes import task_notes
from eval_harness.scoring.unreadable import unreadable_answers_note

if TYPE_CHECKING:
    from pathlib import Path

    from eval_harness.generation.systems import Outcome
    from eval_harness.generation.task import Settings
    from eval_harness.publishing.publications import Publications
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
    """Runs the evaluations and prints a table for each. Returns 0."""
    from eval_harness.commands.flags.run_settings import all_flags, publications_of, settings_of
    from eval_harness.generation.evaluate import run_evaluation
    from eval_harness.generation.launched import join_launched
    from eval_harness.generation.systems import check_outcomes, run_systems

    processes = join_launched()
    flags = processes.together(lambda: all_flags(args))
    systems = [
        dataclasses.replace(settings, processes=processes)
        for settings in processes.together(lambda: settings_of(flags))
    ]
    publications = processes.together(
        lambda: [publications_of(flags, settings.output_path) for settings in systems]
    )
    if not processes.is_main:
        return _work_along(systems, several=bool(flags.systems))
    if flags.check_integrity:
        from eval_harness.benchmarks.summary import summary

        for benchmark in systems[0].benchmarks:
            print(f"eval-harness: {summary(benchmark)}", file=sys.stderr)
    if not flags.systems:
        results, path = run_evaluation(systems[0])
        _report(results, path, publications[0], show_config=flags.show_config)
        return 0
    check_outcomes(
        [
            _reported(outcome, publications[outcome.place], show_config=flags.show_config)
            for outcome in run_systems(systems)
        ]
    )
    return 0


def _reported(outcome: "Outcome", publications: "Publications", *, show_config: bool) -> "Outcome":
    """One of several systems, without its samples; it fails if its results cannot be sent."""
    if outcome.results is None or outcome.path is None:
        return outcome
    print(f"{outcome.name}:")
    try:
        _report(outcome.results, outcome.path, publications, show_config=show_config)
    except RunFailure as error:  # its results are kept, and the other systems go on
        print(f"eval-harness: {error}", file=sys.stderr)
        return dataclasses.replace(outcome, results=None, failure=str(error))
    return dataclasses.replace(outcome, results=None)


def _work_along(systems: "list[Settings]", *, several: bool) -> int:
    """The part of a process that neither prints nor writes results."""
    from eval_harness.generation.evaluate import run_evaluation
    from eval_harness.generation.systems import run_systems

    if not several:
        run_evaluation(systems[0])
        return 0
    failures = [outcome.failure for outcome in run_systems(systems)]
    return int(any(failures))


def _report(
    results: "Results", path: "Path", publications: "Publications", *, show_config: bool
) -> None:
    from eval_harness.shared.files.atomic import encode_json

    sys.stdout.write(_table(results))
    for line in _notes(results):
        print(line)
        print(f"eval-harness: {line}", file=sys.stderr)
    if show_config:
        configs = {name: task.config for name, task in results.tasks.items()}
        sys.stdout.write(encode_json(configs, where="configs"))
    print(f"written to {path}", file=sys.stderr)
    sys.stdout.flush()
    for line in publications.send(results, path):
        print(f"eval-harness: {line}", file=sys.stderr)


def _table(results: "Results") -> str:
    lines = ["task  rows  metric  value  stderr"]
    for task in results.tasks.values():
        for name, value in task.metrics.items():
            metric, _, _ = name.partition(",")
            error = task.metrics.get(f"{metric}_stderr,none")
            # Metrics have a standard error; the other values describe the answers.
            if error is None or metric.endswith("_stderr"):
                continue
            rows = str(task.num_effective)
            if "num_scored,none" in task.metrics:
                rows = f"{task.metrics['num_scored,none']} of {rows}"
            lines.append(f"{task.task}  {rows}  {metric}  {_number(value)}  {_number(error)}")
    if len(lines) == 1:
        return (
            "no scores: the answers are kept; where rows have references or a metric needs none, "
            "the command without --predict_only scores them\n"
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
    notes = []
    for task in results.tasks.values():
        found = [*task_notes(task), unreadable_answers_note(task.metrics)]
        notes += [f"{task.task}: {note}" for note in found if note]
    return notes


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
