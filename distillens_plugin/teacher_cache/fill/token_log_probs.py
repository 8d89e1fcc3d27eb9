"""Log-probabilities of given tokens, a few rows of logits at a time.

Legend: N rows, D width of what the unembedding reads, V vocabulary.
"""

import torch
from torch import Tensor

from distillens_plugin.lens.readout import Lens

# 256 rows of a vocabulary of 150,000 are 150 MB in float32.
_ROWS = 256


@torch.no_grad()
def token_log_probs(lens: Lens, final_ND: Tensor, tokens_N: Tensor) -> Tensor:
    """[N] float32 on the CPU, in nats: of each token after what the unembedding reads.

    Args:
        lens: of the model.
        final_ND: as the unembedding takes them, after the final norm.
        tokens_N: int64.
    """
    head = lens.head()
    found = []
    for rows, tokens in zip(final_ND.split(_ROWS), tokens_N.split(_ROWS), strict=True):
        given = rows.to(head.weight.device, head.weight.dtype)
        logits = torch.nn.functional.linear(given, head.weight, head.bias).float() * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        at = tokens.to(logits.device).unsqueeze(1)
        found.append(logits.log_softmax(-1).gather(1, at).squeeze(1).cpu())
    return torch.cat(found) if found else torch.empty(0)
