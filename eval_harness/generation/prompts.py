"""From benchmark rows to prompt token ids that fit the protocol and the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from eval_harness.benchmarks.rows import Row
from eval_harness.errors import DistillensError
from eval_harness.generation.context import BETWEEN_EXAMPLES, Context
from eval_harness.generation.conversation_prompts import cut_question, question_parts
from eval_harness.protocols.protocol import Protocol
from eval_harness.shared.text.special_text import Part
from eval_harness.shared.text.templates import cut_prompt, prompt_parts
from eval_harness.shared.text.tokenisation import Outcome, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptCounts:
    """How many prompts were changed, out of `prompts`.

    Attributes:
        cut: over the limit, truncated by the protocol's rule.
        empty: without a token; replaced by the tokenizer's first or end token.
        as_text: contain text that looks like special tokens, and was tokenised as text.
        special: contain special tokens that the tokenizer cannot tokenise as text.
    """

    prompts: int
    cut: int
    empty: int
    as_text: int = 0
    special: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Prompts:
    """Token ids of each row, in the rows' order.

    Attributes:
        texts: what the token ids say, but for a first token that the template does not have.
        encoder: what made them; it knows how responses are tokenised and end.
    """

    token_ids: list[tuple[int, ...]]
    texts: list[str]
    counts: PromptCounts
    encoder: TextEncoder


def fit_to_model(protocol: Protocol, max_length: int | None) -> Protocol:
    """The protocol with token limits that fit a model of `max_length` positions.

    Answers keep at most half of the model, prompts take the rest, and every row gets the same
    limits, so that no row's score depends on another row's length.

    Raises:
        DistillensError: the model has fewer than 2 positions.
    """
    if max_length is None or protocol.max_prompt_tokens + protocol.max_new_tokens <= max_length:
        return protocol
    if max_length < 2:
        raise DistillensError(f"the model has {max_length} positions, expected at least 2")
    room = max(max_length // 2, max_length - protocol.max_prompt_tokens)
    max_new_tokens = min(protocol.max_new_tokens, room)
    return replace(
        protocol,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=min(protocol.max_prompt_tokens, max_length - max_new_tokens),
    )


def prepare_prompts(
    rows: Sequence[Row],
    protocol: Protocol,
    tokenizer: "PreTrainedTokenizerBase",
    context: Context | None = None,
) -> Prompts:
    """Prompts of 1 to `protocol.max_prompt_tokens` tokens, tokenised as in training.

    Args:
        context: what stands before each row's question; examples that do not fit are left out from
            the first.

    Raises:
        DistillensError: the template alone is too long or does not work with the tokenizer or a
            row's messages, a message opens a turn of its own, or a prompt is empty and the
            tokenizer has no token to begin with.
    """
    encoder = TextEncoder(
        tokenizer, template=protocol.template, add_bos_token=protocol.add_bos_token
    )
    context = context or Context()
    prompts = [_parts_after(context, row, encoder) for row in rows]
    token_ids: list[tuple[int, ...]] = []
    texts: list[str] = []
    outcomes: list[Outcome] = []
    num_cut = num_empty = 0
    for row, parts, encoded in zip(rows, prompts, encoder.prompts(prompts), strict=True):
        encoder.check_turns(parts, encoded.outcome, f"row {row.row_id!r}")
        outcomes.append(encoded.outcome)
        ids: Sequence[int] = encoded.ids
        text = _text(parts)
        if len(ids) > protocol.max_prompt_tokens:
            num_cut += 1
            ids, text = _cut_after(context, row, encoded.ids, protocol, encoder)
        if not ids:
            num_empty += 1
            ids = [_first_token(row, tokenizer)]
        token_ids.append(tuple(ids))
        texts.append(text)
    counts = PromptCounts(
        len(rows),
        num_cut,
        num_empty,
        as_text=outcomes.count(Outcome.AS_TEXT),
        special=outcomes.count(Outcome.SPECIAL),
    )
    return Prompts(token_ids, texts, counts, encoder)


def _parts_after(
    context: Context, row: Row, encoder: TextEncoder, *, num_dropped: int = 0
) -> list[Part]:
    """The row's prompt behind its context."""
    if not context:
        return _parts(row, encoder)
    if encoder.template == "chat":
        return _parts(context.conversation(row, num_dropped=num_dropped), encoder)
    parts: list[Part] = []
    for example in context.examples[num_dropped:]:
        answer = Part(example.references[0], from_row=True)
        parts += [*_parts(example, encoder), answer, Part(BETWEEN_EXAMPLES, from_row=False)]
    return [*parts, *_parts(row, encoder)]


def _cut_after(
    context: Context, row: Row, ids: list[int], protocol: Protocol, encoder: TextEncoder
) -> tuple[Sequence[int], str]:
    """The prompt with as many examples as fit; without any, the row is cut as it is alone.

    Args:
        ids: of the whole prompt.
    Returns:
        (token ids, their text).
    """
    num_examples = len(context.examples)
    # Under every rule: a prompt that begins with examples and lacks its question asks nothing.
    for num_dropped in range(1, num_examples + 1):
        parts = _parts_after(context, row, encoder, num_dropped=num_dropped)
        ids = encoder.prompt(parts).ids
        if len(ids) <= protocol.max_prompt_tokens:
            return ids, _text(parts)
    if context and encoder.template == "chat":
        row = context.conversation(row, num_dropped=num_examples)
    cut = _cut(row, ids, protocol, encoder)
    return cut, _decoded(cut, encoder, whole=_text(_parts(row, encoder)))


def _parts(row: Row, encoder: TextEncoder) -> list[Part]:
    if row.conversation is not None:
        return question_parts(row.conversation, encoder, f"row {row.row_id!r}")
    if row.prompt is not None:
        # Its author wrote the template too, so its special tokens are intended.
        return [Part(row.prompt, from_row=False)]
    before, body, after = prompt_parts(
        encoder.template, row.instruction, row.input, tokenizer=encoder.tokenizer
    )
    return [*before, body, *after]


def _cut(row: Row, ids: Sequence[int], protocol: Protocol, encoder: TextEncoder) -> Sequence[int]:
    limit = protocol.max_prompt_tokens
    if protocol.truncation == "template" and row.conversation is not None:
        return cut_question(row.conversation, encoder, f"row {row.row_id!r}", max_tokens=limit)
    if protocol.truncation == "template" and row.prompt is None:
        cut, _ = cut_prompt(
            protocol.template, row.instruction, row.input, max_tokens=limit, tokenizer=encoder
        )
        return cut
    # A ready prompt has no template to keep whole, so it loses its end under either rule.
    return ids[:limit]


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)


def _decoded(ids: Sequence[int], encoder: TextEncoder, *, whole: str) -> str:
    """The text of a prompt that was cut, begun as the whole one's text is."""
    before, tokenizer = list(encoder.prefix_ids), encoder.tokenizer
    if before and not whole.startswith(tokenizer.decode(before)):
        ids = ids[len(before) :]
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _first_token(row: Row, tokenizer: "PreTrainedTokenizerBase") -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DistillensError(
        f"row {row.row_id!r}: its prompt has no tokens, and the tokenizer has neither a first nor "
        "an end token to use instead; use a template with some text"
    )
