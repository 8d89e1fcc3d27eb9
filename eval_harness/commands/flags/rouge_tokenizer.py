"""--rouge_tokenizer: ROUGE-L of other words, in commands that score or that write tasks."""

import argparse

DEFAULT = "default"


def add_tokenizer_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag."""
    parser.add_argument(
        "--rouge_tokenizer",
        default=parser.argument_default or DEFAULT,
        metavar="NAME",
        help="default (a-z and 0-9, as the papers), or unicode: also rougeL_unicode, ROUGE-L of "
        "words in any script",
    )
