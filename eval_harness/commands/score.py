"""`eval-harness score`: any model's outputs against references, as JSON on standard output."""

import argparse
import sys

from eval_harness.commands.flags.rouge_tokenizer import add_tokenizer_flag


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
    add_tokenizer_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the scores. Returns 0."""
    from eval_harness.scoring.reference_notes import reference_notes
    from eval_harness.scoring.rouge import metric_of_tokenizer, rouge_backend
    from eval_harness.scoring.score import read_references, score_against
    from eval_harness.shared.files.atomic import encode_json

    # Before anything is read, since it may not be installed.
    backend = rouge_backend(args.scorer)
    metrics = [metric_of_tokenizer(args.rouge_tokenizer)]
    expected = read_references(args.references)
    result = score_against(expected, args.predictions, backend=backend, metrics=metrics)
    sys.stdout.write(encode_json(result, where="scores"))
    sys.stdout.flush()
    for note in reference_notes(result, result["num_rows"], expected.texts, suffix=""):
        print(f"eval-harness: {note}", file=sys.stderr)
    return 0
