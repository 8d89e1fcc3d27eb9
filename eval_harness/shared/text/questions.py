"""A conversation as a question: the messages before an answer, and the answer to compare with."""

from collections.abc import Mapping
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.text.messages import Conversation, read_conversation


def read_question(
    row: Mapping[str, Any], where: str, *, column: str, newline: str | None
) -> tuple[Conversation, str | None]:
    """The messages that a model is asked to continue, and the reference in the row's own turns.

    A row with an `output` has its references there, so its messages are the whole question. In any
    other row the assistant's last turn is the reference, and what may follow it is not read.

    Args:
        row: its columns under our names, but for `column`.
        where: of the row, for errors.
        column: that holds the messages.
        newline: as in `read_newlines`.
    Returns:
        (the question, the reference or None if `output` has it).
    Raises:
        DistillensError: not a conversation, or nothing to ask or to compare with.
    """
    conversation = read_conversation(row, where, column=column, newline=newline)
    if row.get("output") not in (None, "", []):
        if conversation.messages[-1].role == "assistant":
            raise DistillensError(
                f"{where}: the last of the {column} is an assistant's, and there is an output too; "
                "expected the reference in one of the two"
            )
        return conversation, None
    turn = conversation.last_answer()
    if turn is None:
        raise DistillensError(
            f"{where}: no answer in {column} and no output; expected a reference in one of the two"
        )
    if conversation.messages[turn].tool_calls:
        raise DistillensError(
            f"{where}: the assistant's last turn in {column} calls tools; expected a text "
            "that answers can be compared with"
        )
    question = conversation.before(turn)
    if all(message.role == "system" for message in question.messages):
        raise DistillensError(
            f"{where}: nothing is asked before the assistant's last turn in {column}; "
            "expected a user's message"
        )
    return question, conversation.messages[turn].content
