"""From benchmark rows to prompt token ids that fit the protocol and the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval_harness.benchmarks.rows import Row
from eval_harness.errors import DistillensError
from eval_harness.jsonl import replace_lone_surrogates
from eval_harness.protocols import Protocol
from eval_harness.templates import cut_prompt, render_prompt


@dataclass(frozen=True)
class PromptCounts:
    """How many prompts were changed, out of `prompts`.

    Attributes:
        cut: over the limit, cut by the protocol's rule.
        empty: without a token; they begin with the tokenizer's first or end token instead.
    """

    prompts: int
    cut: int
    empty: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Prompts:
    """Token ids of each row, in the rows' order; texts are what they were made from, uncut."""

    token_ids: list[tuple[int, ...]]
    texts: list[str]
    counts: PromptCounts


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


def prepare_prompts(rows: Sequence[Row], protocol: Protocol, tokenizer: Any) -> Prompts:
    """Prompts of 1 to `protocol.max_prompt_tokens` tokens; no special token is added.

    Raises:
        DistillensError: the template alone is too long, or a prompt is empty and the tokenizer has
            no token to begin with.
    """
    token_ids: list[tuple[int, ...]] = []
    texts: list[str] = []
    num_cut = num_empty = 0
    for row in rows:
        text = row.prompt
        if text is None:
            text = render_prompt(protocol.template, row.instruction, row.input, tokenizer=tokenizer)
        ids, cut = _fit(row, text, protocol, tokenizer)
        if not ids:
            num_empty += 1
            ids = [_first_token(row, tokenizer)]
        num_cut += cut
        token_ids.append(tuple(ids))
        texts.append(text)
    return Prompts(token_ids, texts, PromptCounts(len(rows), num_cut, num_empty))


def _fit(row: Row, text: str, protocol: Protocol, tokenizer: Any) -> tuple[list[int], bool]:
    if protocol.truncation == "template" and row.prompt is None:
        return cut_prompt(
            protocol.template,
            row.instruction,
            row.input,
            max_tokens=protocol.max_prompt_tokens,
            tokenizer=tokenizer,
        )
    # A ready prompt has no template to keep whole, so it loses its end under either rule.
    ids = tokenizer(replace_lone_surrogates(text), add_special_tokens=False)["input_ids"]
    return ids[: protocol.max_prompt_tokens], len(ids) > protocol.max_prompt_tokens


def _first_token(row: Row, tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DistillensError(
        f"row {row.row_id!r}: its prompt has no token, and the tokenizer has neither a first nor "
        "an end token to begin with; use a template with some text"
    )
