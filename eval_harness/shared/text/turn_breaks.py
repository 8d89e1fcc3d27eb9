"""Tokenises a conversation so that each answer follows the tokens which a model is asked with.

A tokenizer may join a template's last line break with an answer's first one, or choose other tokens
for a prompt once something follows it. What a prompt is, was decided before there was an answer; so
there the text is cut in two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval_harness.shared.text.special_text import Part, Places, pattern_of
from eval_harness.shared.text.tokenisation import Encoded, Outcome, TextEncoder


@dataclass(frozen=True)
class Broken:
    """A rendered conversation, and where its answers begin.

    Attributes:
        parts: of the text, none of them empty.
        is_learnt: of each part, whether it is trained on.
        breaks: for each answer, the number of the part that it begins with; ascending.
    """

    parts: Sequence[Part]
    is_learnt: Sequence[bool]
    breaks: Sequence[int]


def encode_broken(texts: Sequence[Broken], encoder: TextEncoder) -> list[Encoded]:
    """Token ids with their parts, and with what prompts begin with.

    A slow tokenizer does not say where its tokens are, so there every stretch that is trained on,
    and every one between them, is tokenised by itself.
    """
    if not getattr(encoder.tokenizer, "is_fast", False):
        cuts = [{*text.breaks, *_changes(text.is_learnt)} for text in texts]
        return [_cut(text, places, encoder) for text, places in zip(texts, cuts, strict=True)]
    # What asks for an answer is often the same text, so each is tokenised once.
    asking = [[_asking(text.parts[:place], encoder) for place in text.breaks] for text in texts]
    distinct = list({parts for several in asking for parts in several})
    asked = dict(zip(distinct, encoder.placed(distinct), strict=True))
    found = []
    for text, several, encoded in zip(
        texts, asking, encoder.placed([text.parts for text in texts]), strict=True
    ):
        joined = {
            place
            for place, parts in zip(text.breaks, several, strict=True)
            if not _follows(encoded, place, asked[parts].ids)
        }
        found.append(_cut(text, joined, encoder) if joined else encoder.begun(encoded))
    return found


def _asking(parts: Sequence[Part], encoder: TextEncoder) -> tuple[Part, ...]:
    """The text's end, from its last control token on: no other token reaches across one."""
    pattern = pattern_of(encoder.control_signs)
    for number in range(len(parts) - 1, -1, -1):
        part = parts[number]
        signs = [] if part.from_row else list(pattern.finditer(part.text))
        if signs:
            return (Part(part.text[signs[-1].start() :], False), *parts[number + 1 :])
    return tuple(parts)


def _follows(encoded: Encoded, place: int, asked_ids: Sequence[int]) -> bool:
    """Whether the part with this number begins with a token of its own, right behind these."""
    places = encoded.places or []
    end = next((at for at, parts in enumerate(places) if parts.stop > place), len(places))
    return encoded.ids[max(0, end - len(asked_ids)) : end] == list(asked_ids)


def _changes(is_learnt: Sequence[bool]) -> list[int]:
    return [number for number, (a, b) in enumerate(pairwise(is_learnt), start=1) if a != b]


def _cut(text: Broken, places: set[int], encoder: TextEncoder) -> Encoded:
    """The text with each stretch between these parts tokenised by itself."""
    starts = sorted({0, *places} - {len(text.parts)})
    stretches = [text.parts[a:b] for a, b in pairwise([*starts, len(text.parts)])]
    ids: list[int] = []
    whole: Places = []
    outcomes = []
    for start, encoded in zip(starts, encoder.placed(stretches), strict=True):
        ids += encoded.ids
        whole += [range(p.start + start, p.stop + start) for p in encoded.places or []]
        outcomes.append(encoded.outcome)
    worst = max(outcomes, key=[*Outcome].index)
    return encoder.begun(Encoded(ids, worst, whole))
