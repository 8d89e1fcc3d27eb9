"""`eval-harness report`: an HTML page and a Markdown table about one or more systems."""

import argparse

from eval_harness.commands.compare import add_system_arguments, print_names


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="write an HTML page and a Markdown table",
        description="Writes report.html (one self-contained file), report.md and its plots: "
        "scores with intervals, score against length, and the rows where systems differ most.",
    )
    add_system_arguments(parser)
    parser.add_argument("--output_path", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--num_rows", type=int, default=10, metavar="N", help="rows shown for each task (10)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints its paths. Returns 0."""
    from eval_harness.comparison.systems import load_systems
    from eval_harness.errors import DistillensError
    from eval_harness.report.place import check_place
    from eval_harness.scoring.rouge import metric_of_tokenizer
    from eval_harness.shared.argument_types import folder_of
    from eval_harness.shared.files.atomic import check_can_be_made
    from eval_harness.shared.pages.figures import require_matplotlib

    # Before the systems are read and scored, which may take a while.
    require_matplotlib()
    if args.num_rows < 0:
        raise DistillensError(f"--num_rows is {args.num_rows}, expected 0 or more")
    folder = folder_of(args.output_path, "--output_path")
    check_can_be_made(folder)
    check_place(folder)
    systems = load_systems(
        args.systems,
        references=args.references,
        metrics=[metric_of_tokenizer(args.rouge_tokenizer)],
    )

    from eval_harness.report.page import write_report

    page, markdown = write_report(systems, folder, all_pairs=args.all_pairs, num_rows=args.num_rows)
    print_names(f"{page}\n{markdown}")
    return 0
