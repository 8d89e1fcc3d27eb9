"""`distillens report RUN...`: a page about a run, or about several side by side."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="a page about a run, while it goes on or afterwards, or about several runs",
        description="Writes report.html and figures: losses, layer pairs, entropy and confidence "
        "by layer, answers, speed and memory. The runs may still go on.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="the output folder of a run"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where report.html goes; default: RUN/report; needed for several runs",
    )
    parser.add_argument(
        "--evaluation",
        metavar="PATH",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        help="results of eval-harness on the runs' models; those in RUN/evaluation are found alone",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the page and prints where it is."""
    from distillens_plugin.reports.run_report import write_report

    print(
        write_report(
            arguments.runs, output_dir=arguments.output_dir, evaluations=arguments.evaluation
        )
    )
