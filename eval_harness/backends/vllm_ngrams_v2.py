"""The no-repeat-n-gram rule as a logits processor of vLLM's second model runner (used on GPUs).

There the tokens of all requests are in one matrix on the device, and the rule is applied to the
whole batch at once.
"""

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from eval_harness.backends.ngrams import ban_repeats


class NoRepeatNgrams(LogitsProcessor):
    """Acts on requests with `extra_args={"no_repeat_ngram_size": n}`."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self.tokens = req_states.all_token_ids
        self.sizes = torch.zeros(req_states.max_num_reqs, dtype=torch.long)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        size = (sampling_params.extra_args or {}).get("no_repeat_ngram_size", 0)
        # Slots are reused: a request without the rule must clear its predecessor's.
        self.sizes[req_idx] = size
        return size > 0

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        slots = ctx.expanded_idx_mapping.long()
        sizes = self.sizes.to(slots.device)[slots]
        # The token at position `pos` is the last one seen, so a row has pos + 1 tokens.
        lengths = ctx.pos.long() + 1
        width = int(ctx.seq_lens_upper_bound_np.max())
        tokens = self.tokens.gpu[slots, :width]
        return ban_repeats(logits, tokens, lengths, sizes)
