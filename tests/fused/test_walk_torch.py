"""The fused walk among torch's other machinery: backward, compile, checkpointing, DDP, memory."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from distillens_plugin.divergences import DIVERGENCES, make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, Head, lens_divergence, walk, walk_naive
from distillens_plugin.fused.compiled import (
    CompiledSegment,
    compiled_segment,
)


def tensors(rows: int = 12, vocab: int = 50) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, 6), (vocab, 6), (rows, 8), (vocab, 8)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [made[0].requires_grad_(), made[1].requires_grad_(), *made[2:]]


def test_retain_graph_allows_a_second_backward() -> None:
    inputs = tensors()
    loss = lens_divergence(*inputs)
    first = torch.autograd.grad(loss, inputs[:2], retain_graph=True)
    second = torch.autograd.grad(3 * loss, inputs[:2], retain_graph=True)
    third = torch.autograd.grad(loss, inputs[:2])
    for one, two, three in zip(first, second, third, strict=True):
        torch.testing.assert_close(two, 3 * one)
        torch.testing.assert_close(three, one)


def test_second_backward_without_retain_graph_is_a_clear_error() -> None:
    inputs = tensors()
    loss = lens_divergence(*inputs)
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


def test_double_backward_is_refused() -> None:
    inputs = tensors()
    (gradient,) = torch.autograd.grad(lens_divergence(*inputs), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.sum().backward()


def test_gradients_accumulate_and_are_not_shared_between_losses() -> None:
    inputs = tensors()
    lens_divergence(*inputs).backward()
    assert inputs[1].grad is not None
    once = inputs[1].grad.clone()
    (2 * lens_divergence(*inputs)).backward()
    torch.testing.assert_close(inputs[1].grad, 3 * once)


def test_no_reduction_gives_rows_and_refuses_a_backward() -> None:
    inputs = tensors()
    rows = lens_divergence(*inputs, reduction="none")
    assert rows.shape == (12,)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.mean(), lens_divergence(*inputs))
    torch.testing.assert_close(rows.sum(), lens_divergence(*inputs, reduction="sum"))
    with pytest.raises(RuntimeError, match="forward only"):
        rows.sum().backward()
    naive = lens_divergence.naive(*inputs, reduction="none")
    torch.testing.assert_close(rows, naive)


def test_unknown_reduction_and_divergence_are_refused() -> None:
    inputs = tensors()
    with pytest.raises(ValueError, match="reduction = 'avg'"):
        lens_divergence(*inputs, reduction="avg")
    with pytest.raises(ValueError, match="divergence = 'kl'"):
        lens_divergence(*inputs, divergence="kl")


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
        return result


def test_nothing_is_larger_than_a_chunk_of_logits() -> None:
    rows, vocab, chunk_rows = 64, 500, 8
    inputs = tensors(rows, vocab)
    labels = torch.zeros(rows, dtype=torch.long)
    groups = [
        Group("jsd", inputs[0], make_divergence("jsd"), inputs[2]),
        Group("ce", inputs[0], CROSS_ENTROPY, labels=labels),
    ]
    heads = Head(inputs[1]), Head(inputs[3])
    with LargestTensor() as naive:
        walk_naive(groups, *heads).loss.backward()
    assert naive.largest == rows * vocab
    with LargestTensor() as fused:
        walk(groups, *heads, chunk_rows=chunk_rows).loss.backward()
    assert fused.largest <= chunk_rows * vocab


class Copies(TorchDispatchMode):
    """Counts copies of a tensor from one device or type to another."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        return func(*args, **(kwargs or {}))


def test_a_number_as_denominator_is_not_copied_from_the_host() -> None:
    rows, weights = torch.ones(4, 6, device="meta"), torch.ones(4, device="meta")
    group = Group("g", rows, CROSS_ENTROPY, labels=torch.zeros(4), denominator=3.0)
    with Copies() as copies:
        inverse = group.inverse_denominator(weights)
    assert inverse.device == weights.device
    assert copies.count == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("denominator", [3.3, 7, 0, 1e30])
def test_a_number_as_denominator_is_what_a_tensor_is(
    denominator: float, dtype: torch.dtype
) -> None:
    group = Group("g", torch.ones(4, 6), CROSS_ENTROPY, labels=torch.zeros(4))
    by_number = replace(group, denominator=denominator)
    by_tensor = replace(group, denominator=torch.tensor(denominator, dtype=torch.float64))
    weights = torch.ones(4, dtype=dtype)
    found, expected = (g.inverse_denominator(weights) for g in (by_number, by_tensor))
    assert found.dtype == dtype
    assert torch.equal(found, expected)


class Student(nn.Module):
    """An embedding tied to the unembedding, and a layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6)
        self.layer = nn.Linear(6, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.embedding(ids)))


def student_and_teacher() -> tuple[Student, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    return Student(), torch.arange(12) * 4, tensors()[2:]


def test_works_around_a_compiled_model() -> None:
    student, ids, teacher = student_and_teacher()

    def loss_of(ids: Tensor) -> Tensor:
        return lens_divergence(student(ids), student.embedding.weight, *teacher)

    compiled = torch.compile(loss_of, backend="eager")
    expected = torch.autograd.grad(loss_of(ids), list(student.parameters()))
    found = torch.autograd.grad(compiled(ids), list(student.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_works_with_gradient_checkpointing(use_reentrant: bool) -> None:
    student, ids, teacher = student_and_teacher()
    hidden = student(ids)
    expected = torch.autograd.grad(
        lens_divergence(hidden, student.embedding.weight, *teacher), list(student.parameters())
    )

    def loss_of(embedded: Tensor) -> Tensor:
        hidden = torch.tanh(student.layer(embedded))
        return lens_divergence(hidden, student.embedding.weight, *teacher)

    loss = checkpoint(loss_of, student.embedding(ids), use_reentrant=use_reentrant)
    loss.backward()
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    student, ids, teacher = student_and_teacher()
    parallel = DistributedDataParallel(student)
    half = slice(6 * rank, 6 * rank + 6)
    hidden = parallel(ids[half])
    weight = student.embedding.weight
    lens_divergence(hidden, weight, teacher[0][half], teacher[1], reduction="sum").backward()
    torch.save([p.grad for p in student.parameters()], f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_average_the_gradient_of_a_tied_head(tmp_path: Path) -> None:
    # Not forked: autograd's threads, once another test has started them, do not survive a fork.
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    student, ids, teacher = student_and_teacher()
    loss = lens_divergence(student(ids), student.embedding.weight, *teacher, reduction="sum")
    expected = torch.autograd.grad(loss, list(student.parameters()))
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for gradient, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, whole / 2)


def assert_compiled_is_the_same(name: str, **options: bool) -> None:
    """The path that CUDA takes, here on the CPU."""
    compiled_segment.cache_clear()
    inputs = tensors()
    labels = torch.arange(12)
    groups = [
        Group(name, inputs[0], make_divergence(name), inputs[2], temperature=2.0),
        Group("ce", inputs[0], CROSS_ENTROPY, labels=labels),
    ]
    groups = groups if options else groups[:1]
    heads = Head(inputs[1], softcap=5.0), Head(inputs[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled = walk(groups, *heads, compile_blocks=True, chunk_rows=5, **options)
    plain = walk(groups, *heads, **options)
    torch.testing.assert_close(compiled.loss, plain.loss)
    torch.testing.assert_close(compiled.entropies, plain.entropies)
    found, expected = (torch.autograd.grad(r.loss, inputs[:2]) for r in (compiled, plain))
    torch.testing.assert_close(found, expected)
    compiled_segment.cache_clear()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_whole_chunks_without_scratch_memory_give_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a compiler is given, run as it is; compiling every divergence would take minutes.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    assert_compiled_is_the_same(name, entropies=True)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_is_traced_in_one_piece(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph break would be silent on a GPU: smaller pieces, each of them a pass over memory."""
    whole = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    assert_compiled_is_the_same(name, entropies=True)


def test_blocks_made_functional_by_a_compiler_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert_compiled_is_the_same("jsd")


def test_blocks_compiled_to_machine_code_give_the_same() -> None:
    assert_compiled_is_the_same("fkl")


def test_a_failing_compiler_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler here")

    compiled_segment.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    inputs = tensors()
    group = Group("fkl", inputs[0], make_divergence("fkl"), inputs[2])
    heads = Head(inputs[1]), Head(inputs[3])
    with pytest.warns(RuntimeWarning, match="fkl.*no compiler here"):
        result = walk([group], *heads, compile_blocks=True)
    compiled_segment.cache_clear()
    plain = walk([group], *heads)
    torch.testing.assert_close(result.loss, plain.loss)
    found, expected = (torch.autograd.grad(r.loss, inputs[:2]) for r in (result, plain))
    torch.testing.assert_close(found, expected)


def test_running_out_of_memory_is_not_mistaken_for_a_compiler_fault() -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    block = CompiledSegment(full, "jsd")
    block.function = full
    with pytest.raises(torch.OutOfMemoryError):
        block(torch.zeros(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_equals_the_cpu(dtype: torch.dtype) -> None:
    inputs = [tensor.detach().to(dtype) for tensor in tensors(40, 1000)]
    results = []
    for device in ("cpu", "cuda"):
        placed = [tensor.to(device) for tensor in inputs]
        placed[0].requires_grad_()
        placed[1].requires_grad_()
        loss = lens_divergence(*placed)
        gradients = torch.autograd.grad(loss, placed[:2])
        results.append([tensor.detach().cpu() for tensor in (loss, *gradients)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-4)
