"""The fused walk in half precision and under autocast."""

import pytest
import torch
from torch import Tensor

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, Head, lens_divergence, walk, walk_naive

HALF = [torch.bfloat16, torch.float16]


def tensors(dtype: torch.dtype, rows: int = 48, vocab: int = 701) -> list[Tensor]:
    """Student rows and weight, teacher rows and weight, the same numbers in any type."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, 32), (vocab, 32), (rows, 48), (vocab, 48)]
    made = [torch.randn(shape, generator=generator) * 0.5 for shape in shapes]
    # Rounded to the coarsest type first, so that only arithmetic differs.
    made = [tensor.bfloat16().half().to(dtype) for tensor in made]
    return [made[0].requires_grad_(), made[1].requires_grad_(), *made[2:]]


def loss_and_gradients(call, inputs: list[Tensor], **options: object) -> list[Tensor]:
    loss = call(*inputs, **options)
    return [loss.detach(), *torch.autograd.grad(loss, inputs[:2])]


def largest_error(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).abs().max() / truth.abs().max()).item()


def typical_error(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("name", ["jsd", "fkl", "rkl", "akl"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_half_precision_is_no_worse_than_plain_autograd(
    name: str, dtype: torch.dtype, chunk_rows: int | None
) -> None:
    naive = lens_divergence.naive
    truth = loss_and_gradients(naive, tensors(torch.float64), divergence=name)
    plain = loss_and_gradients(naive, tensors(dtype), divergence=name)
    fused = loss_and_gradients(
        lens_divergence, tensors(dtype), divergence=name, chunk_rows=chunk_rows
    )
    assert [tensor.dtype for tensor in fused] == [torch.float32, dtype, dtype]
    # Both round the same products: only the order of float32 sums can differ.
    assert largest_error(fused[0], truth[0]) < largest_error(plain[0], truth[0]) + 1e-6
    for found, other, exact in zip(fused[1:], plain[1:], truth[1:], strict=True):
        assert typical_error(found, exact) < 1.02 * typical_error(other, exact)


def test_small_coefficients_survive_float16() -> None:
    # 1 / denominator is far below what float16 holds, and the gradient must not vanish in it.
    inputs = tensors(torch.float16)
    group = Group("g", inputs[0], make_divergence("jsd"), inputs[2], denominator=1e9)
    result = walk([group], Head(inputs[1]), Head(inputs[3]))
    (result.loss * 1e9).backward()
    expected = loss_and_gradients(lens_divergence, tensors(torch.float16), reduction="sum")
    assert inputs[0].grad is not None
    torch.testing.assert_close(inputs[0].grad, expected[1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_decides_the_type_of_the_products(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    multiply = torch.mm

    def watched(*args: Tensor, **kwargs: Tensor) -> Tensor:
        seen.update(argument.dtype for argument in args)
        return multiply(*args, **kwargs)

    inputs = tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        monkeypatch.setattr(torch, "mm", watched)
        found = loss_and_gradients(lens_divergence, inputs)
        monkeypatch.undo()
        naive = loss_and_gradients(lens_divergence.naive, inputs)
    assert seen == {dtype}
    truth = loss_and_gradients(lens_divergence, tensors(torch.float64))
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    for mine, plain, exact in zip(found[1:], naive[1:], truth[1:], strict=True):
        assert typical_error(mine, exact) < 1.02 * typical_error(plain, exact)


def test_models_of_different_types_meet() -> None:
    student, weight, _, _ = tensors(torch.float32)
    _, _, teacher, teacher_weight = tensors(torch.bfloat16)
    inputs = [student, weight, teacher, teacher_weight]
    found = loss_and_gradients(lens_divergence, inputs)
    expected = loss_and_gradients(lens_divergence.naive, inputs)
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-7)


def test_identical_half_precision_models_give_exactly_zero() -> None:
    student, weight, _, _ = tensors(torch.bfloat16)
    inputs = [student, weight, student.detach(), weight.detach()]
    loss, *gradients = loss_and_gradients(lens_divergence, inputs)
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_cross_entropy_in_bfloat16() -> None:
    inputs = tensors(torch.bfloat16)
    labels = torch.arange(48) * 11
    group = Group("ce", inputs[0], CROSS_ENTROPY, labels=labels)
    fused, naive = (f([group], Head(inputs[1])) for f in (walk, walk_naive))
    torch.testing.assert_close(fused.loss, naive.loss, rtol=1e-6, atol=0)
    found, expected = (torch.autograd.grad(r.loss, inputs[:2]) for r in (fused, naive))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-4)
