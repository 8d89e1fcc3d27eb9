"""Draws tokens from logits with one stream of random numbers for each row.

A row's stream depends on its seed alone, so the batch affects its tokens only through its logits:
padding changes float32 logits in the last bits. Sampling takes the largest of logits plus Gumbel
noise, which is least sensitive to such errors: a token flips only if the two best are within the
error of each other, which is about as likely as the error is large. (Inverting the cumulative
distribution would flip a token whenever one of its V edges moves past the random number.)
"""

from collections.abc import Sequence

import torch


class TokenStreams:
    """One random generator for each row.

    Args:
        seeds: [B], each in [0, 2**63).
        device: where the logits are; CPU and GPU give different numbers for the same seed.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(
        self,
        logits_BV: torch.Tensor,
        *,
        temperature: float,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> torch.Tensor:
        """The next token of each row.

        Args:
            logits_BV: [B, V]; -inf for forbidden tokens.
            temperature: above 0.
            top_k: keep this many most likely tokens; 0 keeps all.
            top_p: keep the fewest most likely tokens whose probability reaches it; 1 keeps all.
        Returns:
            [B] int64.
        """
        scores_BV = logits_BV.float() / temperature
        if 0 < top_k < scores_BV.shape[-1]:
            least = scores_BV.topk(top_k, dim=-1).values[:, -1:]
            scores_BV = scores_BV.masked_fill(scores_BV < least, float("-inf"))
        if top_p < 1.0:
            scores_BV = _keep_top_p(scores_BV, top_p)
        noise_BV = torch.empty_like(scores_BV)
        for noise_V, generator in zip(noise_BV, self.generators, strict=True):
            noise_V.exponential_(generator=generator)
        # -log of an exponential variable is a Gumbel variable.
        return (scores_BV - noise_BV.log_()).argmax(dim=-1)


def _keep_top_p(scores_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    descending, order = scores_BV.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = descending.cumsum(dim=-1) - descending
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, before >= top_p)
    return scores_BV.masked_fill(dropped, float("-inf"))
