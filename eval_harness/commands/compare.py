"""`eval-harness compare`: paired differences between systems, and what they show."""

import argparse
import sys

from eval_harness.commands.flags.rouge_tokenizer import add_tokenizer_flag


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare systems row by row",
        description="Does one system score higher than another? Prints paired differences with "
        "95 % intervals, sign-flip p-values with Holm's correction, and the smallest difference "
        "that the benchmark could have shown. The later systems are compared with the first.",
    )
    add_system_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name systems, shared with `report`."""
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="SYSTEM",
        help="results folder or file of a run; with --references, a file of predictions",
    )
    parser.add_argument(
        "--references", metavar="FILE", help="the references (JSONL) of prediction files"
    )
    parser.add_argument("--all_pairs", action="store_true", help="compare every pair of systems")
    add_tokenizer_flag(parser)


def print_names(text: str) -> None:
    """Prints text with names in it, which may contain characters that stdout cannot encode."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison. Returns 0."""
    from eval_harness.comparison.compare import compare_loaded
    from eval_harness.comparison.systems import load_systems
    from eval_harness.errors import DistillensError
    from eval_harness.scoring.rouge import metric_of_tokenizer
    from eval_harness.shared.files.atomic import encode_json

    if len(args.systems) < 2:
        raise DistillensError("compare needs at least two systems, found one; name another")
    systems = load_systems(
        args.systems,
        references=args.references,
        metrics=[metric_of_tokenizer(args.rouge_tokenizer)],
    )
    result = compare_loaded(systems, all_pairs=args.all_pairs)
    if args.json:
        sys.stdout.write(encode_json(result.to_json(), where="comparison"))
        sys.stdout.flush()
    else:
        print_names(str(result))
    return 0
