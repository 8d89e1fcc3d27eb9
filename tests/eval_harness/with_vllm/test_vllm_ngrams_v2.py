"""The processor for vLLM's second model runner, on that runner's own context, tokens on a CPU.

The runner itself needs Triton and a GPU; what runs here is everything of ours.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval_harness.backends.ngrams import NgramHistory

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]


def request(size: int) -> SimpleNamespace:
    return SimpleNamespace(extra_args={"no_repeat_ngram_size": size} if size else None)


def test_it_bans_what_the_history_bans_for_reordered_rows_and_reused_slots():
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

    from eval_harness.backends.vllm_ngrams_v2 import NoRepeatNgrams

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 3, (8, 40), generator=generator, dtype=torch.int32)
    states = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=tokens), max_num_reqs=8)
    processor = NoRepeatNgrams(None, states)
    assert isinstance(processor, LogitsProcessor)
    assert processor.add_request(6, request(2))
    # Slot 6 is used again by a request without the rule.
    assert not processor.add_request(6, request(0))
    slots, sizes, lengths = [5, 2, 6, 0], [2, 3, 0, 6], [30, 7, 20, 40]
    for slot, size in zip(slots, sizes, strict=True):
        if slot != 6:
            assert processor.add_request(slot, request(size))
    mapping = torch.tensor(slots, dtype=torch.int32)
    context = LogitsContext(
        expanded_idx_mapping=mapping,
        idx_mapping=mapping,
        idx_mapping_np=np.array(slots),
        expanded_local_pos=torch.zeros(4, dtype=torch.int32),
        input_ids=torch.zeros(4, dtype=torch.int32),
        pos=torch.tensor(lengths) - 1,
        seq_lens_upper_bound_np=np.array(lengths),
    )
    banned = torch.isinf(processor.apply(torch.zeros(4, 3), context))
    for row in range(4):
        history = tokens[slots[row], : lengths[row]].tolist()
        expected = set(NgramHistory(sizes[row], history).banned()) if sizes[row] else set()
        assert set(banned[row].nonzero()[:, 0].tolist()) == expected
    assert banned.any()
