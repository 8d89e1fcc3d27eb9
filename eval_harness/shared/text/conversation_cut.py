"""A conversation that fits into a prompt: its oldest turns go first."""

from bisect import bisect_left
from collections.abc import Callable, Sized
from dataclasses import replace
from typing import TypeVar

from eval_harness.errors import DistillensError
from eval_harness.shared.text.messages import Conversation

Encoded = TypeVar("Encoded", bound=Sized)


def cut_conversation(
    conversation: Conversation, encode: Callable[[Conversation], Encoded], max_tokens: int
) -> Encoded:
    """The tokens of a conversation without its oldest turns, of at most `max_tokens`.

    A system message stays, and what is left begins with a user's message, as templates expect. If
    the last one and what follows it are too long by themselves, the longest message loses its end,
    and then the next longest.

    Args:
        encode: the tokens of a whole prompt; more messages or longer ones give more tokens.
        max_tokens: at least what the template itself needs.
    Raises:
        DistillensError: the template alone is longer than `max_tokens`.
    """
    found: dict[int, Encoded] = {}
    candidates = _candidates(conversation)

    def fits(index: int) -> bool:
        found[index] = encode(candidates[index])
        return len(found[index]) <= max_tokens

    first = bisect_left(range(len(candidates)), True, key=fits)
    if first < len(candidates):
        return found[first] if first in found else encode(candidates[first])
    return _cut_messages(candidates[-1], encode, max_tokens)


def _candidates(conversation: Conversation) -> list[Conversation]:
    """The conversation, then without its oldest turns up to each later message of a user."""
    messages = conversation.messages
    system = messages[:1] if messages[0].role == "system" else ()
    users = [turn for turn, message in enumerate(messages) if message.role == "user"]
    later = [turn for turn in users if turn > len(system)]
    return [
        conversation,
        *(replace(conversation, messages=(*system, *messages[turn:])) for turn in later),
    ]


def _cut_messages(
    conversation: Conversation, encode: Callable[[Conversation], Encoded], max_tokens: int
) -> Encoded:
    lengths = [len(message.content) for message in conversation.messages]
    for turn in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptied = _cut_message(conversation, turn, 0)
        if len(encode(emptied)) <= max_tokens:
            return _cut_to_fit(conversation, turn, encode, max_tokens)
        conversation = emptied
    raise DistillensError(
        f"the template alone takes {len(encode(conversation))} tokens, but a prompt may have "
        f"{max_tokens}; raise the limit"
    )


def _cut_to_fit(
    conversation: Conversation,
    turn: int,
    encode: Callable[[Conversation], Encoded],
    max_tokens: int,
) -> Encoded:
    """With as much of one message as fits; an empty one does."""

    def is_too_long(num_characters: int) -> bool:
        return len(encode(_cut_message(conversation, turn, num_characters))) > max_tokens

    length = len(conversation.messages[turn].content)
    # Doubling first keeps very long messages cheap.
    end = 4 * max_tokens
    while end < length and not is_too_long(end):
        end *= 2
    too_many = bisect_left(range(min(end, length) + 1), True, key=is_too_long)
    return encode(_cut_message(conversation, turn, too_many - 1))


def _cut_message(conversation: Conversation, turn: int, num_characters: int) -> Conversation:
    messages = list(conversation.messages)
    messages[turn] = replace(messages[turn], content=messages[turn].content[:num_characters])
    return replace(conversation, messages=tuple(messages))
