"""Whether a language model is causal: tested, since encoders load as one without a warning."""

from typing import Any

import torch

from eval_harness.shared.input_device import input_device

_NUM_TOKENS = 6
# Largest |difference| / largest |logit| that rounding explains; causal models give exactly none.
_TOLERANCE = 1e-3


@torch.no_grad()
def reads_later_tokens(model: Any) -> bool:
    """Whether changing the last token changes the logits of the tokens before it (BERT, XLM).

    Args:
        model: a transformers language model in eval mode.
    """
    num_ids = len(model.get_input_embeddings().weight)
    ids = torch.arange(3, 3 + _NUM_TOKENS, device=input_device(model))[None] % num_ids
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 5) % num_ids
    before, after = (
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :-1].double()
        for tokens in (ids, other)
    )
    return bool((before - after).abs().max() > _TOLERANCE * before.abs().max())


NOT_CAUSAL = (
    "its logits for a token depend on later tokens, so it is not a causal language model; "
    "expected one such as GPT2LMHeadModel (an encoder needs is_decoder: true in its config.json, "
    "and weights trained that way)"
)
