"""Row entropies against float64 written out."""

import pytest
import torch

from distillens_plugin.fused.entropies import row_entropies
from distillens_plugin.fused.parts import Head


def rows(number=11, width=8):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_entropy_is_that_written_out(softcap, has_bias, chunk_rows):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(29, 8, generator=generator, requires_grad=True)
    bias = torch.randn(29, generator=generator) if has_bias else None
    head = Head(weight, bias, softcap=softcap, scale=1.5)
    logits = rows().double() @ weight.detach().double().T
    logits = 1.5 * (logits if bias is None else logits + bias.double())
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    p = logits.softmax(-1)
    found = row_entropies(rows(), head, chunk_rows=chunk_rows)
    torch.testing.assert_close(found.double(), -(p * p.log()).sum(-1), rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_certain_uniform_and_no_rows():
    bias = torch.full((4,), float("-inf"))
    bias[2] = 0.0
    certain = row_entropies(rows(3), Head(torch.zeros(4, 8), bias))
    assert certain.tolist() == [0, 0, 0]
    # Probabilities that vanish in float32.
    assert row_entropies(1e4 * rows(3), Head(torch.eye(8), None)).abs().max() == 0
    uniform = row_entropies(rows(3), Head(torch.zeros(5, 8), None))
    torch.testing.assert_close(uniform, torch.full((3,), 5.0).log())
    assert row_entropies(rows(0), Head(torch.zeros(4, 8), None)).shape == (0,)
