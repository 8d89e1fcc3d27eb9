"""`eval-harness score`: any model's outputs against references, as JSON on standard output."""

import argparse
import sys


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "score",
        help="score a file of predictions and print JSON",
        description="Scores predictions (id, text) against references (id, output): ROUGE-L and "
        "exact match, per row and in total. Standard output is JSON only.",
    )
    parser.add_argument("--predictions", required=True, metavar="FILE", help="JSONL: id, text")
    parser.add_argument(
        "--references", required=True, metavar="FILE", help="JSONL: id and output, or messages"
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="rouge-score-rs or rouge-score (same values); default: the fastest installed",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the scores. Returns 0."""
    from eval_harness.scoring.rouge_words import without_words_note
    from eval_harness.scoring.score import score_files
    from eval_harness.shared.files.atomic import encode_json

    result = score_files(args.predictions, args.references, backend=args.scorer)
    sys.stdout.write(encode_json(result, where="scores"))
    sys.stdout.flush()
    note = without_words_note(result["num_references_without_words"], result["num_rows"])
    if note is not None:
        print(f"eval-harness: {note}", file=sys.stderr)
    return 0
