"""Rows that `distillens generate` wrote: a teacher's answers, marked by a key of their own.

SeqKD trains on these; with a data set's own references it would be plain fine-tuning.
"""

import os

from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.text.messages import conversation_column, read_conversation

# The key of each such row; its value names the teacher.
MARK = "generated_by"


def check_generated(path: str, where: str, *, supervise: str) -> int:
    """How many rows a file of generated answers holds.

    Args:
        supervise: `all_turns` or `last_turn`; of a conversation, the teacher gave the last answer.
    Raises:
        DistillensError: it is not such a file, and the error says how to make one; or answers
            would be trained on that no teacher gave.
    """
    todo = (
        "make them with `distillens generate RECIPE --output FILE.jsonl` and set "
        "datasets.train.path to that file"
    )
    if not path.endswith(".jsonl") or not os.path.isfile(path):
        raise DistillensError(
            f"{where}: SeqKD (generated: true) needs a JSON Lines file with the teacher's answers, "
            f"found {path!r}; {todo}"
        )
    num_rows = 0
    for line, row in read_jsonl(path):
        if MARK not in row:
            raise DistillensError(
                f"{where}: {path}:{line} is not a generated answer (it has no {MARK!r}), but SeqKD "
                f"(generated: true) needs the teacher's answers; {todo}"
            )
        column = conversation_column(row)
        if column is not None and supervise != "last_turn":
            conversation = read_conversation(row, f"{path}:{line}", column=column)
            if any(message.role == "assistant" for message in conversation.messages):
                raise DistillensError(
                    f"{where}: {path}:{line} has answers before the teacher's, which supervise: "
                    f"{supervise} would train on; set datasets.train.supervise: last_turn"
                )
        num_rows += 1
    return num_rows
