"""Splits the GSM8K training rows into the quickstart's train.jsonl and valid.jsonl.

    python recipes/quickstart/make_data.py GSM8K_TRAIN.jsonl

The source is GSM8K's public training set (openai/grade-school-math, MIT: LICENSE here) with the
calculator marks (<<...>>) removed, as rows of `instruction`, `input` and `output`.
"""

import random
import sys
from pathlib import Path

from eval_harness.shared.files.jsonl import read_jsonl, write_jsonl

NUM_VALIDATION_ROWS = 300
SEED = 10


def main(source: str) -> None:
    """Writes both files beside this script; the rows keep the order of the source."""
    rows = [row for _, row in read_jsonl(source)]
    held_out = set(random.Random(SEED).sample(range(len(rows)), NUM_VALIDATION_ROWS))
    folder = Path(__file__).parent
    write_jsonl(folder / "train.jsonl", [row for i, row in enumerate(rows) if i not in held_out])
    write_jsonl(folder / "valid.jsonl", [rows[i] for i in sorted(held_out)])


if __name__ == "__main__":
    main(sys.argv[1])
