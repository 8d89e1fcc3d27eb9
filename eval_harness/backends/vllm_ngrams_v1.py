"""The no-repeat-n-gram rule as a logits processor of vLLM's first model runner (used on CPUs)."""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from eval_harness.backends.ngrams import NgramHistory


class NoRepeatNgrams(AdapterLogitsProcessor):
    """Acts on requests with `extra_args={"no_repeat_ngram_size": n}`."""

    def is_argmax_invariant(self) -> bool:
        """It forbids tokens, so greedy answers change too."""
        return False

    def new_req_logits_processor(self, params: Any) -> "_OneRequest | None":
        size = (params.extra_args or {}).get("no_repeat_ngram_size", 0)
        return _OneRequest(size) if size else None


class _OneRequest:
    """Follows one request; vLLM hands over the prompt and its running list of output tokens."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.history: NgramHistory | None = None
        self.num_prompt_tokens = 0

    def __call__(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], logits: torch.Tensor
    ) -> torch.Tensor:
        if self.history is None or self.history.length > len(prompt_ids) + len(output_ids):
            # New, or restarted after vLLM preempted it.
            self.history = NgramHistory(self.size, prompt_ids)
            self.num_prompt_tokens = len(prompt_ids)
        self.history.extend(output_ids[self.history.length - self.num_prompt_tokens :])
        banned = self.history.banned()
        if banned:
            logits[banned] = float("-inf")
        return logits
