"""Which stretches of a rendered conversation its assistant wrote.

A template that marks them itself (`{% generation %}`) is believed. With any other, a turn is what
the conversation up to it adds to the same without it, and the whole conversation must begin so too.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.text.chat_templates import (
    MARK,
    chat_template_of,
    marks_answers,
    render_answers,
    render_chat,
    turn_end_text,
)
from eval_harness.shared.text.messages import Conversation
from eval_harness.shared.text.special_text import Part, pattern_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUPERVISE = ("all_turns", "last_turn")

Span = tuple[int, int]


@dataclass(frozen=True)
class Answers:
    """What of a conversation's text is trained on.

    Attributes:
        first: the first turn of which anything is.
        prompt_end: characters that ask for that turn.
        spans: (start, end) of each stretch, in order.
    """

    first: int
    prompt_end: int
    spans: list[Span]


def answer_turns(conversation: Conversation, supervise: str) -> list[int]:
    """The indices of the assistant's turns that are trained on.

    A turn without text or a tool's call teaches nothing, and a greeting that nobody asked for is
    no answer.

    Args:
        supervise: of `SUPERVISE`.
    """
    asked = False
    turns = []
    for turn, message in enumerate(conversation.messages):
        asked = asked or message.role in ("user", "tool")
        if (
            message.role == "assistant"
            and asked
            and (message.content.strip() or message.tool_calls)
        ):
            turns.append(turn)
    return turns[-1:] if supervise == "last_turn" else turns


def answer_spans(
    conversation: Conversation,
    turns: Sequence[int],
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    signs: Sequence[str],
) -> Answers:
    """Where the text's first answer begins, and the stretches that are trained on.

    Args:
        conversation: up to the last of `turns`.
        turns: from `answer_turns`, at least one.
        text: of the whole conversation, as the template renders it.
        signs: that open or end turns, if they are tokens.
    Raises:
        DistillensError: the template prints a turn in one way by itself and in another among
            others, or marks nothing; names the turn.
    """
    if marks_answers(tokenizer):
        return _marked_answers(conversation, turns, text, tokenizer, signs)
    spans = [
        _turn_span(conversation, turn, text, tokenizer, signs, is_last=turn == turns[-1])
        for turn in turns
    ]
    return Answers(turns[0], spans[0][0], spans)


def split_parts(parts: Sequence[Part], places: Sequence[int]) -> list[Part]:
    """The parts, cut where one of the places (characters of their whole text) lies inside."""
    found = []
    start = 0
    for part in parts:
        end = start + len(part.text)
        cuts = sorted({start, end, *(place for place in places if start < place < end)})
        found += [
            Part(part.text[first - start : last - start], part.from_row)
            for first, last in pairwise(cuts)
        ]
        start = end
    return found


def within(parts: Sequence[Part], spans: Sequence[Span]) -> list[bool]:
    """Whether each part lies in one of the spans; `split_parts` has cut them there."""
    ends = list(accumulate(len(part.text) for part in parts))
    found = [False] * len(ends)
    for start, end in spans:
        # A part belongs to the span if it ends in it.
        for number in range(bisect_left(ends, start + 1), bisect_left(ends, end + 1)):
            found[number] = True
    return found


def _turn_span(
    conversation: Conversation,
    turn: int,
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    signs: Sequence[str],
    *,
    is_last: bool,
) -> Span:
    asking = _render(conversation.before(turn), tokenizer, add_generation_prompt=True)
    until = text if is_last else _render(conversation.before(turn + 1), tokenizer)
    if not until.startswith(asking):
        raise DistillensError(
            f"messages[{turn}]: the chat template asks for an answer in other words than it prints "
            f"before one ({_difference(until, asking)}), so the model would not be asked as it is "
            "trained; use a template with {% generation %}"
        )
    start = len(asking)
    end = _turn_end(until, start, tokenizer, signs, is_last=is_last)
    if not text.startswith(until[:end]):
        raise DistillensError(
            f"messages[{turn}]: the chat template prints this turn in another way once others "
            f"follow ({_difference(text, until[:end])}), so it is not what a model would write; "
            "use supervise: last_turn, or a template with {% generation %}"
        )
    return start, end


def _turn_end(
    text: str,
    start: int,
    tokenizer: "PreTrainedTokenizerBase",
    signs: Sequence[str],
    *,
    is_last: bool,
) -> int:
    """Behind the sign that ends the turn with which the text ends."""
    pattern = pattern_of(signs)
    usual = turn_end_text(tokenizer)
    sign = pattern.search(usual)
    if usual and text.endswith(usual):
        if sign is not None:
            return len(text) - len(usual) + sign.end()
        # A plain-text end stops nothing; the caller appends the end token to the last one.
        return len(text) - len(usual) if is_last else len(text)
    ends = [match.end() for match in pattern.finditer(text, start)]
    return ends[-1] if ends else len(text)


def _marked_answers(
    conversation: Conversation,
    turns: Sequence[int],
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    signs: Sequence[str],
) -> Answers:
    _check_marks(tokenizer)
    rendered, marked = _render_answers(conversation, tokenizer)
    found = _of_turns(conversation, turns, marked, tokenizer)
    if rendered != text or not found:
        raise DistillensError(
            f"messages[{turns[0]}]: the chat template has {{% generation %}}, but marks nothing "
            "of this turn with it; correct the template"
        )
    # Some authors mark a turn and forget what ends it, from which a model learns to stop.
    usual = turn_end_text(tokenizer)
    sign = pattern_of(signs).search(usual)
    ending = usual[: sign.end()] if sign else ""
    spans = [
        (start, end + len(ending) if ending and text.startswith(ending, end) else end)
        for stretches in found.values()
        for start, end in stretches
    ]
    first = next(iter(found))
    asking = _render(conversation.before(first), tokenizer, add_generation_prompt=True)
    return Answers(first, len(asking) if text.startswith(asking) else spans[0][0], spans)


def _of_turns(
    conversation: Conversation,
    turns: Sequence[int],
    marked: Sequence[Span],
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[int, list[Span]]:
    """The stretches of each of the turns that has any.

    Templates mark every turn of the assistant, trained on or not, but nothing of some (a call of a
    tool), and some turns in pieces. So the stretches are counted turn by turn.
    """
    said = [turn for turn, entry in enumerate(conversation.messages) if entry.role == "assistant"]
    ends = [len(_render_answers(conversation.before(turn + 1), tokenizer)[1]) for turn in said[:-1]]
    found = {
        turn: [(first, last) for first, last in marked[start:end] if first < last]
        for turn, (start, end) in zip(said, pairwise([0, *ends, len(marked)]), strict=True)
    }
    return {turn: found[turn] for turn in turns if found[turn]}


def _check_marks(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Looks once whether what the template marks is the assistant's text and no other."""
    template = chat_template_of(tokenizer)
    if template in _CHECKED:
        return
    contents = [f"{MARK}{number}{MARK}" for number in range(4)]
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]
    text, spans = render_answers(tokenizer, messages)
    marked = "".join(text[start:end] for start, end in spans)
    if [content in marked for content in contents] != [False, True, False, True]:
        raise DistillensError(
            "the chat template's {% generation %} does not mark what an assistant writes and that "
            "alone; correct the template, or delete these marks from it"
        )
    _CHECKED.add(template)


_CHECKED: set[str] = set()


def _render(
    conversation: Conversation,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    add_generation_prompt: bool = False,
) -> str:
    messages: list[Mapping[str, Any]] = [*conversation.to_template()]
    return render_chat(
        tokenizer,
        messages,
        add_generation_prompt=add_generation_prompt,
        tools=conversation.tools,
    )


def _render_answers(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[str, list[Span]]:
    return render_answers(tokenizer, conversation.to_template(), tools=conversation.tools)


def _difference(found: str, expected: str) -> str:
    """Where two texts part, for an error."""
    same = next(
        (place for place, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
    )
    return f"{found[same : same + 20]!r} rather than {expected[same : same + 20]!r}"
