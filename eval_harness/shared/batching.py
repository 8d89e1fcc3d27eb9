"""Which prompts may share a batch: tested on each model, so there is no table of model classes.

Shorter prompts of a batch are padded on the left, under an attention mask. Some recurrent models
take no mask and read the padding as text (RWKV, RecurrentGemma), and transformers mixes up the rows
of RWKV's state: an answer would depend on its neighbours.
"""

import enum
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval_harness.shared.input_device import input_device

_NUM_PROMPT, _NUM_PADDING, _NUM_STEPS = 5, 7, 3
# Largest |difference| / largest |logit| that rounding explains between one batch and another.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
_Steps = list[list[tuple[Tensor, int]]]


class Batching(enum.Enum):
    """Which prompts may share a batch; the value is a clause for people."""

    ANY = "any prompts share a batch"
    ONE_LENGTH = "reads padding as text, so only prompts of one length share a batch"
    ALONE = "mixes up the rows of a batch, so each prompt runs by itself"


_known: "weakref.WeakKeyDictionary[Any, Batching]" = weakref.WeakKeyDictionary()


def batching_of(model: Any) -> Batching:
    """The model's batching: tested once, through its own `generate`, on a few tokens.

    Args:
        model: a plain transformers causal LM in eval mode, without generation settings of its own.
    """
    if model not in _known:
        _known[model] = _try(model)
    return _known[model]


def split(lengths: Sequence[int], batching: Batching) -> list[list[int]]:
    """Groups of prompts that may share a batch, by index, in the order given.

    Args:
        lengths: tokens of each prompt.
    """
    if batching is Batching.ALONE:
        return [[place] for place in range(len(lengths))]
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(length if batching is Batching.ONE_LENGTH else 0, []).append(place)
    return list(groups.values())


@torch.no_grad()
def _try(model: Any) -> Batching:
    num_ids = len(model.get_input_embeddings().weight)
    kind = input_device(model).type
    # Under autocast the products are rounded to another type than the weights have.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    tolerance = _TOLERANCES.get(dtype, 2e-3)
    first, second = ([(3 + 7 * i + j) % num_ids for i in range(_NUM_PROMPT)] for j in (0, 29))
    alone = [*_steps(model, [first]), *_steps(model, [second])]
    try:
        if not _agree(alone, _steps(model, [first, second]), tolerance):
            return Batching.ALONE
        padded, otherwise = (
            _steps(model, [[token % num_ids] * _NUM_PADDING + first], _NUM_PADDING)
            for token in (1, 11)
        )
    except Exception:
        # What fails in a batch may work alone; a fault of the model itself was raised above.
        return Batching.ALONE
    # Masked tokens count for exactly nothing, whatever the type.
    masked = _agree(padded, otherwise, 1e-3 * tolerance)
    return Batching.ANY if masked and _agree(alone[:1], padded, tolerance) else Batching.ONE_LENGTH


def _steps(model: Any, rows: Sequence[list[int]], num_padding: int = 0) -> _Steps:
    """For each row, the logits [V] and the chosen token of each step."""
    from transformers import GenerationConfig

    ids = torch.tensor(rows, device=input_device(model))
    mask = torch.ones_like(ids)
    mask[:, :num_padding] = 0
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=_NUM_STEPS,
            # An end token would give a row fewer steps by itself than beside another.
            min_new_tokens=_NUM_STEPS,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        ),
        # Not every process of a run need be trying it now.
        synced_gpus=False,
    )
    tokens = output.sequences[:, ids.shape[1] :].tolist()
    return [
        [(step[row].float(), token) for step, token in zip(output.logits, own, strict=True)]
        for row, own in enumerate(tokens)
    ]


def _agree(left: _Steps, right: _Steps, tolerance: float) -> bool:
    return all(_same_row(*rows, tolerance) for rows in zip(left, right, strict=True))


def _same_row(
    left: list[tuple[Tensor, int]], right: list[tuple[Tensor, int]], tolerance: float
) -> bool:
    for (logits, token), (other_logits, other) in zip(left, right, strict=True):
        scale = logits.abs().max().clamp_min(1e-30)
        if not (logits - other_logits).abs().max() <= tolerance * scale:
            return False
        if token != other:  # a near tie: from here on the two texts differ
            return True
    return True
