"""Tokens are drawn from the right distribution, each row from its own stream."""

import pytest
import torch

from eval_harness.backends.sampling import TokenStreams

NUM_DRAWS = 20_000


def frequencies(logits: list[float], **kwargs) -> torch.Tensor:
    """Of many rows with different seeds; the standard error is at most 0.0036."""
    tokens = TokenStreams(range(NUM_DRAWS), "cpu").draw(
        torch.tensor(logits).expand(NUM_DRAWS, -1), **kwargs
    )
    return torch.bincount(tokens, minlength=len(logits)) / NUM_DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax(temperature):
    logits = [0.0, 1.0, -2.0, 0.5]
    expected = torch.softmax(torch.tensor(logits) / temperature, 0)
    assert torch.allclose(frequencies(logits, temperature=temperature), expected, atol=0.012)


def test_one_stream_follows_the_softmax_over_its_steps():
    streams = TokenStreams([7], "cpu")
    logits = torch.tensor([[0.0, 1.0, -1.0]])
    tokens = torch.cat([streams.draw(logits, temperature=1.0) for _ in range(5000)])
    found = torch.bincount(tokens, minlength=3) / 5000
    assert torch.allclose(found, logits[0].softmax(0), atol=0.025)


def test_forbidden_tokens_never_come():
    found = frequencies([0.0, float("-inf"), 1.0, float("-inf")], temperature=1.0)
    assert found[1] == found[3] == 0


def test_top_k_keeps_the_k_likeliest():
    found = frequencies([0.0, 1.0, -2.0, 0.5], temperature=1.0, top_k=2)
    assert found[0] == found[2] == 0
    expected = torch.softmax(torch.tensor([1.0, 0.5]), 0)
    assert torch.allclose(found[[1, 3]], expected, atol=0.012)


def test_top_p_keeps_the_fewest_that_reach_p():
    logits = torch.log(torch.tensor([0.15, 0.5, 0.05, 0.3])).tolist()
    found = frequencies(logits, temperature=1.0, top_p=0.7)
    assert torch.allclose(found, torch.tensor([0.0, 0.625, 0.0, 0.375]), atol=0.012)


def test_top_p_always_keeps_one():
    assert frequencies([3.0, 0.0], temperature=1.0, top_p=0.01).tolist() == [1.0, 0.0]


def test_a_row_s_tokens_do_not_depend_on_the_other_rows():
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    together, alone = TokenStreams([1, 2**63 - 1, 3], "cpu"), TokenStreams([3], "cpu")
    for _ in range(20):
        drawn = together.draw(logits, temperature=1.0)
        assert alone.draw(logits[2:], temperature=1.0) == drawn[2]


def test_small_errors_of_the_logits_flip_about_as_few_tokens():
    """1e-6 of noise in the logits, as padding brings, over 20,000 draws of 2,000 tokens."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 2000, generator=generator)
    noisy = logits + 1e-6 * torch.randn(200, 2000, generator=generator)
    one, other = TokenStreams(range(200), "cpu"), TokenStreams(range(200), "cpu")
    flips = sum(
        int((one.draw(logits, temperature=1.0) != other.draw(noisy, temperature=1.0)).sum())
        for _ in range(100)
    )
    assert flips <= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_drawn_in_float32(dtype):
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).to(dtype)
    drawn = TokenStreams(range(4), "cpu").draw(logits, temperature=1.0)
    assert torch.equal(drawn, TokenStreams(range(4), "cpu").draw(logits.float(), temperature=1.0))
