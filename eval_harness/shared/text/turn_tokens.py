"""From conversations to token ids that are trained on, and those that only lead to them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from eval_harness.errors import DistillensError
from eval_harness.shared.text.answer_turns import answer_spans, answer_turns, split_parts, within
from eval_harness.shared.text.conversation_parts import check_tool_texts, conversation_parts
from eval_harness.shared.text.messages import Conversation
from eval_harness.shared.text.special_text import Part, pattern_of
from eval_harness.shared.text.tokenisation import Encoded, Outcome, TextEncoder
from eval_harness.shared.text.turn_breaks import Broken, encode_broken


@dataclass(frozen=True)
class EncodedTurns:
    """A conversation up to its last turn that is trained on.

    Attributes:
        ids: of the whole.
        is_learnt: of each id, whether it is trained on; the last one is.
        first: the turn of the first answer that is trained on.
        prompt_length: ids that ask for that answer.
        outcome: how special tokens in the row's text were treated.
    """

    ids: list[int]
    is_learnt: list[bool]
    first: int
    prompt_length: int
    outcome: Outcome

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Rendered:
    parts: list[Part]
    is_learnt: list[bool]
    is_prompt: list[bool]
    breaks: list[int]
    first: int
    has_end: bool


def encode_turns(
    conversations: Sequence[Conversation],
    encoder: TextEncoder,
    *,
    supervise: str,
    places: Sequence[str],
) -> list[EncodedTurns]:
    """Token ids of conversations, each as the one text that the chat template makes of it.

    Only where a token would join an answer's beginning with what asks for it, the text is cut: a
    model that is asked gets the tokens of the prompt alone.

    Args:
        conversations: each with a turn that is trained on.
        encoder: with the template `chat`.
        supervise: of `answer_turns.SUPERVISE`.
        places: of the rows, for errors.
    Raises:
        DistillensError: the template does not work with a conversation, or cannot tell its turns
            apart, or a message opens a turn of its own; names place and turn.
    """
    rendered = [
        _rendered(conversation, encoder, supervise, place)
        for conversation, place in zip(conversations, places, strict=True)
    ]
    encodings = encode_broken(
        [Broken(found.parts, found.is_learnt, found.breaks) for found in rendered], encoder
    )
    turns = []
    for found, encoded, place in zip(rendered, encodings, places, strict=True):
        encoder.check_turns(found.parts, encoded.outcome, place)
        turns.append(_turns(found, encoded, encoder))
    return turns


def _rendered(
    conversation: Conversation, encoder: TextEncoder, supervise: str, place: str
) -> _Rendered:
    check_tool_texts(conversation, encoder.signs, place)
    turns = answer_turns(conversation, supervise)
    # What follows the last answer leads to nothing.
    conversation = conversation.before(turns[-1] + 1)
    tokenizer = encoder.tokenizer
    try:
        parts = conversation_parts(conversation, tokenizer, add_generation_prompt=False)
        text = "".join(part.text for part in parts)
        answers = answer_spans(conversation, turns, text, tokenizer, encoder.control_signs)
    except DistillensError as error:
        raise DistillensError(f"{place}: {error}") from error
    prompt_end, spans = answers.prompt_end, answers.spans
    parts = split_parts(parts, [prompt_end, *(place for span in spans for place in span)])
    is_learnt = within(parts, spans)
    has_end = _has_end(parts, is_learnt, encoder.control_signs)
    ends = list(accumulate(len(part.text) for part in parts))
    breaks = [
        bisect_right(ends, start) for start in (prompt_end, *(start for start, _ in spans[1:]))
    ]
    is_prompt = within(parts, [(0, prompt_end)])
    return _Rendered(parts, is_learnt, is_prompt, breaks, answers.first, has_end)


def _has_end(parts: Sequence[Part], is_learnt: Sequence[bool], signs: Sequence[str]) -> bool:
    """Whether the template ends the last answer with a token; a text alone stops nothing."""
    ending = ""
    for part, learnt in zip(reversed(parts), reversed(is_learnt), strict=True):
        if part.from_row and part.text:
            break
        ending = part.text + ending if learnt else ending
    return pattern_of(signs).search(ending) is not None


def _turns(rendered: _Rendered, encoded: Encoded, encoder: TextEncoder) -> EncodedTurns:
    ids, places = list(encoded.ids), encoded.places or []
    learnt = rendered.is_learnt
    is_learnt = [
        learnt[parts[0]] if len(parts) == 1 else any(learnt[part] for part in parts)
        for parts in places
    ]
    # Behind the last answer a template may print a line break, or an end that nobody writes.
    while is_learnt and not is_learnt[-1]:
        is_learnt.pop()
    del ids[len(is_learnt) :]
    # The first token that holds some of an answer ends the prompt; a break keeps it from both.
    prompt_length = next(
        (
            number
            for number, parts in enumerate(places)
            if any(not rendered.is_prompt[part] for part in parts)
        ),
        len(ids),
    )
    if not rendered.has_end:
        ids += encoder.end_ids
        is_learnt += [True] * len(encoder.end_ids)
    return EncodedTurns(ids, is_learnt, rendered.first, prompt_length, encoded.outcome)
