"""Entropy of the distributions that a head gives, a chunk of rows at a time.

Legend: R rows, D width, V vocabulary.
"""

import torch
from torch import Tensor

from distillens_plugin.fused.naive import head_logits
from distillens_plugin.fused.parts import Head
from distillens_plugin.fused.plan import default_chunk_rows

# Of the rows that a walk takes at a time: this makes several float32 copies of its logits.
_SHARE = 8


@torch.no_grad()
def row_entropies(rows_RD: Tensor, head: Head, *, chunk_rows: int | None = None) -> Tensor:
    """The entropy of softmax(head(row)) for each row, in nats.

    Args:
        rows_RD: [R, D], what the head reads.
        chunk_rows: rows at a time; None takes fewer than the walk does, in less memory.
    Returns:
        [R], in float32 (float64 for float64 heads), without a graph.
    """
    weight = head.weight
    size = chunk_rows or default_chunk_rows(head.vocab_size, weight.device, weight.dtype) // _SHARE
    found = []
    for rows in rows_RD.split(size):
        log_probs = torch.log_softmax(head_logits(rows, head), dim=-1)
        # A probability of 0 counts 0: its logarithm may be infinite.
        terms = torch.where(log_probs.isneginf(), 0.0, log_probs.exp() * log_probs)
        found.append(-terms.sum(-1))
    return torch.cat(found)
