"""Draws tokens from logits, one random number per row and step, taken from the row's own stream.

A row's stream depends on its seed alone, so its tokens depend neither on the order of rows nor on
the batch, as far as its logits do not: padding changes float32 logits in the last bits, which moves
the edges of the distribution by about 1e-7 and so flips a token about once in ten million.
"""

from collections.abc import Sequence

import torch


def uniform_numbers(seeds: Sequence[int], num_steps: int) -> torch.Tensor:
    """[B, num_steps] float64 in [0, 1); row i from seeds[i] alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(num_steps, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def draw(
    logits_BV: torch.Tensor,
    uniforms_B: torch.Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> torch.Tensor:
    """One token per row by inversion of the cumulative distribution, in the order of token ids.

    Args:
        logits_BV: [B, V]; -inf for forbidden tokens.
        uniforms_B: [B] float64 in [0, 1).
        temperature: above 0.
        top_k: keep so many most likely tokens; 0 keeps all.
        top_p: keep the fewest most likely tokens whose probability reaches it; 1 keeps all.
    Returns:
        [B] int64.
    """
    scores_BV = logits_BV.float() / temperature
    if 0 < top_k < scores_BV.shape[-1]:
        least = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least, float("-inf"))
    probabilities_BV = scores_BV.softmax(dim=-1)
    if top_p < 1.0:
        descending, order = probabilities_BV.sort(dim=-1, descending=True, stable=True)
        before = descending.cumsum(dim=-1) - descending
        kept = torch.zeros_like(descending).scatter(1, order, descending.where(before < top_p, 0.0))
        probabilities_BV = kept
    cumulative_BV = probabilities_BV.double().cumsum(dim=-1)
    aims = uniforms_B.to(cumulative_BV.device)[:, None] * cumulative_BV[:, -1:]
    tokens = torch.searchsorted(cumulative_BV, aims, right=True)[:, 0]
    return tokens.clamp(max=logits_BV.shape[-1] - 1)
