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
    from eval_harness.scoring.rouge import metric_of_tokenizer
    from eval_harness.scoring.rouge_words import word_notes
    from eval_harness.scoring.score import score_files
    from eval_harness.shared.files.atomic import encode_json

    result = score_files(
        args.predictions,
        args.references,
        backend=args.scorer,
        metrics=[metric_of_tokenizer(args.rouge_tokenizer)],
    )
    sys.stdout.write(encode_json(result, where="scores"))
    sys.stdout.flush()
    for note in word_notes(result, result["num_rows"], suffix=""):
        print(f"eval-harness: {note}", file=sys.stderr)
    return 0
