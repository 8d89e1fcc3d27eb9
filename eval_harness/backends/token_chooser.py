"""How the next token is chosen inside transformers' `generate`."""

from collections.abc import Sequence

import torch

from eval_harness.backends.base import Sampling
from eval_harness.backends.ngrams import NgramHistory
from eval_harness.backends.sampling import TokenStreams
from eval_harness.errors import RunFailure


class TokenChooser:
    """A logits processor for `generate` that applies the n-gram rule and chooses the token itself.

    It leaves only the chosen token, so that `generate` (which decodes greedily) takes it, and all
    bookkeeping of caches, masks and positions stays in transformers.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        device: torch.device,
    ) -> None:
        self.sampling = sampling
        self.has_begun = False
        self.histories = [
            NgramHistory(sampling.no_repeat_ngram_size, prompt)
            for prompt in (prompts if sampling.no_repeat_ngram_size else [])
        ]
        self.streams = TokenStreams(seeds, device) if sampling.temperature > 0 else None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).any(dim=-1).all() or torch.isnan(scores).any():
            raise RunFailure(
                "the model's logits are NaN; try another dtype (float16 overflows in many models)"
            )
        if self.histories:
            scores = self._forbid_repeats(input_ids, scores)
        if self.streams is not None:
            tokens = self.streams.draw(
                scores,
                temperature=self.sampling.temperature,
                top_k=self.sampling.top_k,
                top_p=self.sampling.top_p,
            )
            scores = torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)
        self.has_begun = True
        return scores

    def _forbid_repeats(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        last = input_ids[:, -1].tolist() if self.has_begun else []
        for row, history in enumerate(self.histories):
            if self.has_begun:
                history.extend([last[row]])
            banned = history.banned()
            if banned:
                scores[row, banned] = float("-inf")
        return scores
