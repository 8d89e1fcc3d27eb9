"""Answers of a model that is being trained, through transformers' generate.

They depend only on weights, prompts and the settings given here, never on the model's own
generation_config.json: a penalty or a cutoff there would sample another distribution, and another
end token would let answers run past the one that is trained.

Legend: B rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from distillens_plugin.lens.positions import num_positions
from distillens_plugin.lens.probe import plain_model, undisturbed, unwrap
from distillens_plugin.sharding.lockstep import lockstep
from eval_harness.errors import RunFailure
from eval_harness.shared.batching import Batching, batching_of, split
from eval_harness.shared.padding import left_padded


@dataclass(frozen=True)
class Decoding:
    """How answers are chosen and where they end.

    Attributes:
        end_ids: tokens that end an answer.
        pad_id: pads shorter prompts; any id of the vocabulary.
        max_new_tokens: longest answer; None leaves it to `max_length`.
        max_length: longest prompt and answer together; None is the model's positions.
        num_ids: ids from here up belong to no token and are never chosen; None allows all.
        temperature: 0 is greedy.
        top_p: share of the probability mass to sample from; 1 is all.
    """

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int | None = None
    max_length: int | None = None
    num_ids: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0


@contextmanager
def generating(model: nn.Module) -> Iterator[Any]:
    """The plain transformers model in eval mode, without its own generation settings.

    `generate` would use those settings where a call sets nothing; modes and settings are restored.
    Every process enters it together if the model is sharded; each may call the model as it likes.
    """
    plain: Any = plain_model(model)
    bare = unwrap(model)
    own = plain.generation_config
    plain.generation_config = GenerationConfig()
    try:
        with undisturbed(model), lockstep(bare, plain):
            yield plain
    finally:
        plain.generation_config = own


def answer(model: nn.Module, prompts: Sequence[list[int]], decoding: Decoding) -> list[list[int]]:
    """An answer for each prompt, up to and including its end token if it has one.

    Rows of one call share the room that the longest prompt leaves. Sampling draws from torch's
    global generators. If the model is sharded, every process calls it, though with other prompts
    or none.

    Args:
        model: the (wrapped) model; its mode and settings stay as they are.
        prompts: token ids, at least one each (`begin`).
    Raises:
        RunFailure: the model's logits are not finite.
    """
    with generating(model) as plain:
        limits = [n for n in (decoding.max_length, num_positions(plain.config)) if n is not None]
        lengths = [len(prompt) for prompt in prompts]
        batching = batching_of(plain) if len(prompts) > 1 else Batching.ALONE
        answers: dict[int, list[int]] = {}
        for rows in split(lengths, batching):
            group = [prompts[row] for row in rows]
            found = _generate(plain, group, decoding, min(limits, default=None))
            answers |= dict(zip(rows, found, strict=True))
        return [answers[row] for row in range(len(prompts))]


def begin(prompt_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The prompt; if empty, the tokenizer's first or end token, as in eval_harness."""
    if prompt_ids:
        return prompt_ids
    first = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if first is None else first]


def num_token_ids(tokenizer: PreTrainedTokenizerBase, *models: nn.Module | None) -> int:
    """How many ids both the tokenizer and every model's unembedding have; those above are padding.

    Args:
        models: None is left out.
    """
    sizes = [max(tokenizer.get_vocab().values()) + 1]
    sizes += [num_unembedded(model) for model in models if model is not None]
    return min(sizes)


def num_unembedded(model: nn.Module) -> int:
    """Rows of the (wrapped) model's unembedding."""
    plain: Any = plain_model(model)
    head = plain.get_output_embeddings()
    return len((head.get_base_layer() if hasattr(head, "get_base_layer") else head).weight)


def until_end(answer_ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """Up to and including the first end token."""
    for place, token in enumerate(answer_ids):
        if token in end_ids:
            return answer_ids[: place + 1]
    return answer_ids


def _generate(
    plain: Any, prompts: Sequence[list[int]], decoding: Decoding, limit: int | None
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    room = decoding.max_new_tokens
    if limit is not None:
        room = limit - width if room is None else min(room, limit - width)
    assert room is not None  # positions or max_new_tokens
    if room < 1:
        return [[] for _ in prompts]
    device = next(plain.parameters()).device
    ids, mask = left_padded(prompts, decoding.pad_id)
    generated = plain.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=_settings(decoding, room),
        logits_processor=[_OnlyTokens(decoding.num_ids)],
        # Processes with a sharded model are kept together by `lockstep`.
        synced_gpus=False,
    )
    return [until_end(row, decoding.end_ids) for row in generated[:, width:].tolist()]


def _settings(decoding: Decoding, max_new_tokens: int) -> GenerationConfig:
    chosen: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        chosen = {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            # transformers' own default keeps the 50 likeliest.
            "top_k": 0,
        }
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(decoding.end_ids),
        pad_token_id=decoding.pad_id,
        **chosen,
    )


class _OnlyTokens:
    """A logits processor of `generate`: ids that belong to no token are never chosen."""

    def __init__(self, num_ids: int | None) -> None:
        self._num_ids = num_ids

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        # A sampler that meets NaN stops a GPU's whole process.
        broken = scores_BV.isnan().any() | scores_BV.isposinf().any()
        if bool(broken | ~scores_BV.isfinite().any(-1).all()):
            raise RunFailure(
                "the student's logits are not finite while it answers; lower the learning rate, or "
                "try another dtype"
            )
        if self._num_ids is None or self._num_ids >= scores_BV.shape[-1]:
            return scores_BV
        kept = scores_BV.clone()
        kept[:, self._num_ids :] = float("-inf")
        return kept
