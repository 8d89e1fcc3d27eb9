"""From text to token ids, in the same way for training and evaluation.

A prompt is tokenised as one text. It begins with what the tokenizer itself puts before a text
(`add_bos_token: auto`). A row's text is only text: <|endoftext|> in it is not an end token. A
response ends with the end token, or in `chat` with what ends an assistant's turn in the tokenizer's
template.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import replace_lone_surrogates
from eval_harness.shared.text.chat_templates import (
    TEMPLATE_DATE,
    around_turns,
    chat_prompt,
    chat_template_of,
    literal_text,
    reads_the_date,
    turn_end_text,
)
from eval_harness.shared.text.first_tokens import first_tokens
from eval_harness.shared.text.special_text import (
    Part,
    Places,
    answer_parts,
    control_tokens,
    pattern_of,
    tag_pattern,
    text_tokenizer,
    token_places,
)
from eval_harness.shared.text.template_table import template_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Words of a prompt's frame in these brackets look like control signs: <|user|>, [INST].
_BRACKETS = {"<": ">", "[": "]"}
_SHORTEST_SIGN = 4


class Outcome(Enum):
    """How a text with something like a special token in it was tokenised."""

    ORDINARY = "nothing looks like one"
    AS_TEXT = "tokenised as text"
    SPECIAL = "still a special token, since the tokenizer knows no other way"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text, and how special tokens in it were treated.

    Attributes:
        places: the parts of the text that each token has characters of, where they were asked for.
    """

    ids: list[int]
    outcome: Outcome
    places: Places | None = None


class TextEncoder:
    """A tokenizer with the rules above.

    Args:
        tokenizer: of transformers.
        template: of the prompts: a name of `template_table.TEMPLATES` or a format string.
        add_bos_token: "auto" begins prompts as the tokenizer begins a text; True requires a first
            token, False adds none. A template that has one already does not get a second.

    Attributes:
        prefix_ids: what prompts begin with; often empty.
        end_ids: what responses end with; the last one is the token that ends an answer.

    Raises:
        DistillensError: a first token is required but there is none, or the chat template does not
            work (see `chat_templates`).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        template: str = "",
        add_bos_token: bool | str = "auto",
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.prefix_ids = first_tokens(tokenizer, add_bos_token)
        frame = template
        if template == "chat":
            chat_prompt("a", tokenizer)
            frame = literal_text(chat_template_of(tokenizer))
        elif "{" not in template:
            frame = template_text(template)
        every = control_tokens(tokenizer, frame)
        # A token of one character is indistinguishable from the character, and harmless.
        self._control = {index: text for index, text in every.items() if len(text) > 1}
        self._pattern = pattern_of(self._control.values())
        self.end_ids = self._end_ids(every)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the last one of `end_ids`, and the tokenizer's end token."""
        found = [*self.end_ids[-1:], self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(index for index in found if index is not None))

    def prompts(self, prompts: Sequence[Sequence[Part]]) -> list[Encoded]:
        """Token ids of prompts, including what they begin with."""
        return [
            Encoded(self._with_prefix(found.ids), found.outcome) for found in self._encode(prompts)
        ]

    def prompt(self, parts: Sequence[Part]) -> Encoded:
        """The same for one prompt."""
        return self.prompts([parts])[0]

    def placed(self, texts: Sequence[Sequence[Part]]) -> list[Encoded]:
        """Token ids of texts as they stand, with the parts that each token belongs to.

        A slow tokenizer does not say where its tokens are, so each may belong to all parts.
        """
        return self._encode(texts, with_places=True)

    def begun(self, encoded: Encoded) -> Encoded:
        """A text from `placed` with what prompts begin with, which belongs to no part."""
        ids = self._with_prefix(encoded.ids)
        before = [range(0)] * (len(ids) - len(encoded.ids))
        return Encoded(ids, encoded.outcome, [*before, *(encoded.places or [])])

    def responses(self, texts: Sequence[str]) -> list[Encoded]:
        """Token ids of texts that follow a prompt; the caller appends `end_ids`.

        In `chat`, tags that are no special tokens (<think>) are tokens, as in a conversation.
        """
        return self._encode([answer_parts(text, self._tags) for text in texts])

    def describe(self) -> list[str]:
        """What the log should mention, as phrases; empty if nothing is unusual."""
        notes = []
        if self.prefix_ids:
            notes.append(f"prompts begin with {self._shown(self.prefix_ids)}")
        if self.end_ids[-1:] != (self.tokenizer.eos_token_id,) and self.end_ids:
            notes.append(f"responses end with {self._shown(self.end_ids)}")
        if self.template == "chat" and reads_the_date(self.tokenizer):
            notes.append(f"the chat template's date is always {TEMPLATE_DATE:%d %b %Y}")
        return notes

    def check_turns(self, parts: Sequence[Part], outcome: Outcome, place: str) -> None:
        """Refuses a message that opens a turn of its own.

        With most tokenizers none can, since a turn's signs are tokens and a row's text never
        becomes one. It can if the signs are plain text, or if the tokenizer always reads them as
        tokens.

        Raises:
            DistillensError: names `place` and the sign.
        """
        if self.template != "chat":
            return
        frame = "".join(part.text for part in parts if not part.from_row)
        signs = set(self._text_signs)
        if outcome is Outcome.SPECIAL:
            signs |= set(self._pattern.findall(frame))
        for part in parts:
            if part.from_row and signs and (found := pattern_of(signs).search(part.text)):
                raise DistillensError(
                    f"{place}: the message contains {found[0]!r}, which opens or ends turns in the "
                    "chat template, and this tokenizer cannot tell the two apart; delete it from "
                    "the row, or use a format string"
                )

    @property
    def control_signs(self) -> tuple[str, ...]:
        """The texts of control tokens."""
        return tuple(self._control.values())

    @property
    def signs(self) -> frozenset[str]:
        """All that could open or end a turn: control tokens, and the template's own words."""
        return frozenset(self._control.values()) | self._text_signs

    @cached_property
    def _text_signs(self) -> frozenset[str]:
        """Bracketed words around turns that are not tokens."""
        tokens = set(self._control.values())
        words = self._pattern.sub(" ", around_turns(self.tokenizer)).split()
        return frozenset(
            word
            for word in words
            if len(word) >= _SHORTEST_SIGN
            and word not in tokens
            and _BRACKETS.get(word[0]) == word[-1]
        )

    @cached_property
    def _tags(self) -> re.Pattern[str]:
        return tag_pattern(self.tokenizer) if self.template == "chat" else pattern_of(())

    @cached_property
    def _text_tokenizer(self) -> Any:
        return text_tokenizer(self.tokenizer, self._control)

    def _encode(
        self, prompts: Sequence[Sequence[Part]], *, with_places: bool = False
    ) -> list[Encoded]:
        cleaned = [
            [Part(replace_lone_surrogates(part.text), part.from_row) for part in parts]
            for parts in prompts
        ]
        if not cleaned:
            return []
        # One call for all texts: a fast tokenizer processes them in parallel.
        batch = self.tokenizer(
            ["".join(part.text for part in parts) for parts in cleaned],
            add_special_tokens=False,
            verbose=False,
        )
        encodings = batch.encodings or [None] * len(cleaned)
        found = []
        for parts, ids, encoding in zip(cleaned, batch["input_ids"], encodings, strict=True):
            is_ordinary = self._is_ordinary(parts, ids, encoding)
            if not is_ordinary:
                found.append(self._encode_as_text(parts, ids, encoding, with_places))
            elif with_places:
                found.append(self._placed(parts, ids, encoding, Outcome.ORDINARY))
            else:
                found.append(Encoded(ids, Outcome.ORDINARY))
        return found

    def _encode_as_text(
        self, parts: Sequence[Part], ids: list[int], encoding: Any, with_places: bool
    ) -> Encoded:
        found = self._text_tokenizer.encode_places(parts)
        if found is None and not with_places:
            return Encoded(ids, Outcome.SPECIAL)
        if found is None:
            return self._placed(parts, ids, encoding, Outcome.SPECIAL)
        as_text, places = found
        outcome = Outcome.AS_TEXT if as_text != ids else Outcome.ORDINARY
        return Encoded(as_text, outcome, places)

    def _placed(
        self, parts: Sequence[Part], ids: list[int], encoding: Any, outcome: Outcome
    ) -> Encoded:
        texts = [part.text for part in parts]
        if encoding is not None:
            return Encoded(ids, outcome, token_places(encoding.offsets, texts))
        return Encoded(ids, outcome, [range(len(parts))] * len(ids))

    def _is_ordinary(self, parts: Sequence[Part], ids: list[int], encoding: Any) -> bool:
        """Whether no control token comes from a row's text, or overlaps it."""
        if self._control.keys().isdisjoint(ids):
            return True
        text = "".join(part.text for part in parts)
        if encoding is not None:
            offsets = zip(ids, encoding.offsets, strict=True)
            spans = [span for index, span in offsets if index in self._control]
        else:
            spans = [match.span() for match in self._pattern.finditer(text)]
        start = 0
        for part in parts:
            end = start + len(part.text)
            if part.from_row:
                for first, last in spans:
                    # Some tokens include the white space beside them, which is harmless.
                    if text[max(first, start) : min(last, end)].strip():
                        return False
            start = end
        return True

    def _with_prefix(self, ids: list[int]) -> list[int]:
        prefix = list(self.prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def _end_ids(self, control: Mapping[int, str]) -> tuple[int, ...]:
        eos = self.tokenizer.eos_token_id
        usual = () if eos is None else (eos,)
        if self.template != "chat":
            return usual
        (found,) = self._encode([[Part(turn_end_text(self.tokenizer), from_row=False)]])
        for position, index in enumerate(found.ids):
            if index in control:
                return tuple(found.ids[: position + 1])
        # A plain-text end stops nothing, so the end token is needed.
        return usual

    def _shown(self, ids: Sequence[int]) -> str:
        return repr("".join(self.tokenizer.convert_ids_to_tokens(list(ids))))
