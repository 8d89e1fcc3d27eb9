"""Packs reach flash attention in the one form in which it finds their rows.

Flash attention itself needs a GPU; an attention of its contract stands in for it.
"""

import pytest
import torch
from boxes import VOCABULARY, Rows
from small_models import small_model
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from distillens_plugin.data.collate import collate
from distillens_plugin.data.packing import PackedDataset
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.packed_inputs import packed_inputs
from distillens_plugin.lens.packing_check import check_packing

NAME = "flash_attention_on_cpu"


def attend_by_positions(
    module, query, key, value, attention_mask, scaling, position_ids=None, **kwargs
):
    """Causal attention [B, heads, T, width], within the rows that a batch of one row has.

    As flash attention, it takes a mask [B, T] for padding alone, and without one it knows of rows
    only from the positions of a single row.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    starts = torch.zeros(query.shape[2], dtype=torch.int64)
    if position_ids is not None and position_ids.shape[0] == len(query) == 1:
        starts = (position_ids[0] == 0).cumsum(0)
    seen = (starts[:, None] == starts[None, :]).tril()
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :].bool()
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def models():
    """The same model with eager attention and with the stand-in."""
    AttentionInterface.register(NAME, attend_by_positions)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    eager, flash = small_model("llama", vocab=VOCABULARY), small_model("llama", vocab=VOCABULARY)
    flash.config._attn_implementation = NAME
    return eager, flash


def packs():
    rows = PackedDataset(Rows(9), 40, seed=2)
    batch, _ = collate([rows[index] for index in range(len(rows))])
    assert batch["input_ids"].shape[0] > 1
    return batch


def test_states_are_those_of_eager_attention(models):
    eager, flash = models
    batch = packs()
    expected = forward(eager, batch).last_hidden
    found = forward(flash, batch).last_hidden
    assert found.shape == (1, expected.shape[0] * expected.shape[1], expected.shape[2])
    torch.testing.assert_close(found.view_as(expected), expected, atol=1e-5, rtol=1e-4)
    check_packing(flash, role="student", where="here")


def test_only_packs_for_flash_attention_become_one_row(models):
    eager, flash = models
    batch = packs()
    assert packed_inputs(eager, batch) is batch
    padded, _ = collate([Rows(2)[0], Rows(2)[1]])
    assert packed_inputs(flash, padded) is padded
    num_tokens = batch["input_ids"].numel()
    assert {value.shape for value in packed_inputs(flash, batch).values()} == {(1, num_tokens)}
