"""Tokenises text that looks like special tokens as text, while the template's own stay special."""

import json
import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Part:
    """A stretch of a prompt.

    Attributes:
        from_row: written by the row's author, so special tokens in it are text; otherwise by the
            template's author, whose special tokens are intended.
    """

    text: str
    from_row: bool


# For each token, the parts that it has characters of.
Places = list[range]


def control_tokens(tokenizer: "PreTrainedTokenizerBase", template_text: str = "") -> dict[int, str]:
    """Tokens that a model reads as control signs rather than as text: id -> content.

    These are the tokenizer's special tokens, and the added tokens that a template writes itself
    (Qwen's <think> is not marked special). Other added tokens, such as runs of spaces, are
    ordinary text. The token for unknown words does not count, unless it is one of the others too
    (GPT-2 has one token for everything).

    Args:
        template_text: the text of the prompt's template, without the row's text.
    """
    special = {token for name, token in _named_special_tokens(tokenizer) if name != "unk_token"}
    found = {}
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    for index, token in added.items():
        content = str(token)
        is_unknown = content == tokenizer.unk_token and content not in special
        is_meant = (
            token.special
            or content in special
            or (content in template_text and not content.isalnum() and not content.isspace())
        )
        if content and is_meant and not is_unknown:
            found[index] = content
    for content in special - set(found.values()):
        found[tokenizer.convert_tokens_to_ids(content)] = content
    return found


def _named_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> Iterable[tuple[str, str]]:
    for name, value in tokenizer.special_tokens_map.items():
        for token in value if isinstance(value, list | tuple) else [value]:
            yield name, str(token)
    for token in getattr(tokenizer, "extra_special_tokens", None) or []:
        yield "extra_special_tokens", str(token)


def pattern_of(contents: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, longer ones first; matches nothing if there are none."""
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def tag_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Matches the added tokens in brackets that an assistant may write: <think>, <tool_call>.

    They are not special, nor an end token that is not so marked.
    """
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    texts = {str(token) for token in added.values()} - set(control_tokens(tokenizer).values())
    return pattern_of(text for text in texts if text[:1] == "<" and text[-1:] == ">")


def answer_parts(text: str, tags: re.Pattern[str]) -> list[Part]:
    """An assistant's answer in parts, its tags apart, as `conversation_parts` reads it.

    Args:
        tags: from `tag_pattern`.
    """
    parts, start = [], 0
    for match in tags.finditer(text):
        parts += [Part(text[start : match.start()], True), Part(match[0], False)]
        start = match.end()
    return [*parts, Part(text[start:], True)]


class MarkedTokenizer:
    """A copy of a fast tokenizer that knows its control tokens under names nobody can guess.

    The template's own control tokens are written under these names. The usual names in a row are
    ordinary text to the copy. The whole prompt is still tokenised at once, so all other tokens are
    the same as the tokenizer's own.

    Args:
        tokenizer: a fast transformers tokenizer.
        control: from `control_tokens`.
    Raises:
        ValueError: the tokenizer cannot be copied this way.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", control: Mapping[int, str]) -> None:
        from tokenizers import Tokenizer

        # A name that a row could contain would be a way to write a control token after all.
        nonce = secrets.token_hex(8)
        self._ids = {content: index for index, content in control.items()}
        self._names = {
            content: f"\ue000{nonce}-{index}\ue001" for index, content in control.items()
        }
        self._pattern = pattern_of(self._names)
        self._control = frozenset(control)
        try:
            spec = json.loads(tokenizer.backend_tokenizer.to_str())
            self._rename(spec)
            self._copy = Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"the tokenizer cannot be copied: {error}") from error
        for content, name in self._names.items():
            if self._copy.token_to_id(name) != self._ids[content]:
                raise ValueError(f"{content!r} changes its id in the copy")

    def encode(self, parts: Sequence[Part]) -> list[int] | None:
        """Token ids of a prompt; None where a row's text still becomes a control token."""
        found = self.encode_places(parts)
        return None if found is None else found[0]

    def encode_places(self, parts: Sequence[Part]) -> tuple[list[int], Places] | None:
        """The same with each token's parts."""
        texts, expected = [], []
        for part in parts:
            if part.from_row:
                texts.append(part.text)
            else:
                expected += [self._ids[content] for content in self._pattern.findall(part.text)]
                texts.append(self._pattern.sub(lambda match: self._names[match[0]], part.text))
        found = self._copy.encode("".join(texts), add_special_tokens=False)
        if [index for index in found.ids if index in self._control] != expected:
            return None
        return found.ids, token_places(found.offsets, texts)

    def _rename(self, spec: dict[str, Any]) -> None:
        names = self._names
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        # Nothing is added here, and a post-processor names its tokens.
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        model = spec["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
        else:  # a unigram model's pieces with their scores
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            model["merges"] = [merge for merge in model["merges"] if not self._concerns(merge)]

    def _concerns(self, merge: Any) -> bool:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        return not self._names.keys().isdisjoint((left, right, left + right))


class SplitTokenizer:
    """The same for tokenizers that cannot be copied: each part by itself, a row's parts as text.

    Args:
        tokenizer: any transformers tokenizer.
        control: from `control_tokens`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", control: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._control = frozenset(control)

    def encode(self, parts: Sequence[Part]) -> list[int] | None:
        """Token ids of a prompt; None where a row's text still becomes a control token."""
        found = self.encode_places(parts)
        return None if found is None else found[0]

    def encode_places(self, parts: Sequence[Part]) -> tuple[list[int], Places] | None:
        """The same with each token's parts."""
        ids: list[int] = []
        places: Places = []
        for number, part in enumerate(parts):
            found = self._tokenizer(
                part.text, add_special_tokens=False, split_special_tokens=part.from_row
            )["input_ids"]
            if part.from_row and not self._control.isdisjoint(found):
                return None
            ids += found
            places += [range(number, number + 1)] * len(found)
        return ids, places


def token_places(offsets: Sequence[tuple[int, int]], texts: Sequence[str]) -> Places:
    """The parts that each token has characters of.

    Args:
        offsets: of each token, (start, end) in the parts' whole text.
        texts: of the parts.
    """
    ends = list(accumulate(map(len, texts)))
    final = len(ends) - 1
    alone = [range(number, number + 1) for number in range(len(ends))]
    places = []
    for start, end in offsets:
        # A byte-level tokenizer leaves a token's white space out, even if it has nothing else.
        start = start if start < end else max(0, end - 1)
        first = min(bisect_right(ends, start), final)
        # Nearly every token lies in one part.
        last = first if end <= ends[first] else min(bisect_left(ends, end, first), final)
        places.append(alone[first] if last == first else range(first, last + 1))
    return places


def text_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", control: Mapping[int, str]
) -> MarkedTokenizer | SplitTokenizer:
    """A `MarkedTokenizer` if the tokenizer can be copied, else a `SplitTokenizer`."""
    if getattr(tokenizer, "is_fast", False):
        try:
            return MarkedTokenizer(tokenizer, control)
        except ValueError:
            pass
    return SplitTokenizer(tokenizer, control)
