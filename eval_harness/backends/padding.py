"""Whether prompts of unlike length may share a batch: tried out, no table of model classes.

Shorter prompts of a batch are padded on the left, under an attention mask. RWKV, xLSTM and their
like take no mask and read the padding as text, so an answer would depend on its neighbours.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_NUM_PROMPT, _NUM_PADDING, _NUM_STEPS = 5, 7, 2
# Largest |difference| / largest |logit| that rounding explains, between a padded and a bare prompt.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
_known: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def respects_left_padding(model: Any) -> bool:
    """Whether padding under the mask leaves a prompt's logits alone, on a prompt of a few tokens.

    Two trials through the model's own `generate`: other ids in the padding must change next to
    nothing, and a padded prompt must give the logits of the bare one. Tried once for each model.

    Args:
        model: a plain transformers causal LM in eval mode, without generation settings of its own.
    """
    if model not in _known:
        _known[model] = _try(model)
    return _known[model]


@torch.no_grad()
def _try(model: Any) -> bool:
    try:
        return _stays_the_same(model)
    except Exception:
        # What fails on a padded prompt must be given bare ones; a fault of the model shows there.
        return False


def _stays_the_same(model: Any) -> bool:
    num_ids = len(model.get_input_embeddings().weight)
    prompt = [(3 + 7 * i) % num_ids for i in range(_NUM_PROMPT)]
    bare = _steps(model, prompt, 0)
    padded, otherwise = (
        _steps(model, [token % num_ids] * _NUM_PADDING + prompt, _NUM_PADDING) for token in (1, 11)
    )
    tolerance = _TOLERANCES.get(model.dtype, 2e-3)
    # Masked tokens count for exactly nothing, whatever the type.
    return _agree(padded, otherwise, 1e-3 * tolerance) and _agree(bare, padded, tolerance)


def _steps(model: Any, ids: list[int], num_padding: int) -> list[tuple[Tensor, int]]:
    """Logits [V] and the chosen token of each step."""
    from transformers import GenerationConfig

    device = model.get_input_embeddings().weight.device
    mask = torch.ones(1, len(ids), dtype=torch.long, device=device)
    mask[:, :num_padding] = 0
    output = model.generate(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=mask,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=_NUM_STEPS,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        ),
    )
    tokens = output.sequences[0, len(ids) :].tolist()
    return [(step[0].float(), token) for step, token in zip(output.logits, tokens, strict=True)]


def _agree(
    left: Sequence[tuple[Tensor, int]], right: Sequence[tuple[Tensor, int]], tolerance: float
) -> bool:
    for (logits, token), (other_logits, other) in zip(left, right, strict=True):
        scale = logits.abs().max().clamp_min(1e-30)
        if not (logits - other_logits).abs().max() <= tolerance * scale:
            return False
        if token != other:  # a near tie: what follows is of another text
            return True
    return True
