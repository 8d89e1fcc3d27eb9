"""Prompts of rows with messages: the chat template's text before the assistant's next turn."""

from collections.abc import Sequence

from eval_harness.errors import DistillensError
from eval_harness.shared.text.conversation_cut import cut_conversation
from eval_harness.shared.text.conversation_parts import check_tool_texts, conversation_parts
from eval_harness.shared.text.messages import Conversation
from eval_harness.shared.text.special_text import Part
from eval_harness.shared.text.tokenisation import TextEncoder


def question_parts(conversation: Conversation, encoder: TextEncoder, place: str) -> list[Part]:
    """The prompt in parts, up to where the assistant's answer begins.

    Args:
        place: of the row, for errors.
    Raises:
        DistillensError: the template is not `chat`, or it does not work with these messages; or a
            tool's text opens a turn.
    """
    if encoder.template != "chat":
        raise DistillensError(
            f"{place} has messages, but the template {encoder.template!r} has no place for turns; "
            "use chat, the tokenizer's own"
        )
    check_tool_texts(conversation, encoder.signs, place)
    try:
        return conversation_parts(conversation, encoder.tokenizer)
    except DistillensError as error:
        raise DistillensError(f"{place}: {error}") from error


def cut_question(
    conversation: Conversation, encoder: TextEncoder, place: str, *, max_tokens: int
) -> Sequence[int]:
    """Token ids of the prompt cut to at most `max_tokens`, as `cut_conversation` cuts.

    Raises:
        DistillensError: the template alone is longer than `max_tokens`.
    """

    def encode(shorter: Conversation) -> list[int]:
        return encoder.prompt(conversation_parts(shorter, encoder.tokenizer)).ids

    try:
        return cut_conversation(conversation, encode, max_tokens)
    except DistillensError as error:
        raise DistillensError(f"{place}: {error}") from error
