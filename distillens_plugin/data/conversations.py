"""A row's conversation as training data: which answers are trained on, and their references."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.text.answer_turns import answer_turns
from eval_harness.shared.text.messages import Conversation, Message, read_conversation


@dataclass(frozen=True)
class TrainedConversation:
    """A conversation up to its last answer that is trained on.

    Attributes:
        conversation: with that answer; the row's whole one if no answer is trained on.
        references: to its first answer that is trained on; an empty text if there is none.
    """

    conversation: Conversation
    references: list[str]


def read_trained(
    row: dict[str, Any],
    place: str,
    *,
    column: str,
    newline: str | None,
    supervise: str,
    outputs: Sequence[str],
) -> TrainedConversation:
    """The conversation in a row.

    Args:
        row: see `read_conversation`, as for `place`, `column` and `newline`.
        supervise: `all_turns` or `last_turn`.
        outputs: the row's own `output`, which answers its messages; often none.
    Raises:
        DistillensError: malformed, or answered twice.
    """
    conversation = read_conversation(row, place, column=column, newline=newline)
    if outputs:
        if conversation.messages[-1].role == "assistant":
            raise DistillensError(
                f"{place}: the last of the {column} is an assistant's, and there is an output too; "
                "expected the answer in one of the two"
            )
        conversation = conversation.with_answer(outputs[0])
    turns = answer_turns(conversation, supervise)
    if not turns:
        return TrainedConversation(conversation, [""])
    if outputs and turns[0] == len(conversation.messages) - 1:
        references = list(outputs)
    else:
        references = [answer_text(conversation.messages[turns[0]])]
    return TrainedConversation(conversation.before(turns[-1] + 1), references)


def answer_text(message: Message) -> str:
    """What a model would be compared with: an answer that only calls tools has no other text."""
    if message.content.strip():
        return message.content
    calls = [call.to_template()["function"] for call in message.tool_calls]
    return "\n".join(json.dumps(call, ensure_ascii=False) for call in calls)
