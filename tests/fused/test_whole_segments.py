"""The walk a whole segment at a time, as a GPU runs it, here on the CPU: against float64."""

import math
from dataclasses import replace

import pytest
import torch

from distillens_plugin.divergences import DIVERGENCES, make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, Head, plan, walk, walk_naive
from distillens_plugin.fused.compiled import compiled_segment

ROWS, WIDTH, TEACHER_WIDTH = 12, 8, 10
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 6e-3}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """What a compiler is given, run as it is."""
    compiled_segment.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    yield
    compiled_segment.cache_clear()


def problem(dtype, vocab=(51, 51), bias=False, padded=0, **head):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, std=1.0):
        # Rounded first, so that every type starts from equal numbers.
        made = torch.randn(shape, generator=generator) * std
        return made.bfloat16().to(dtype)

    hidden = normal(ROWS, WIDTH).requires_grad_()
    weight = normal(vocab[0], WIDTH, std=0.3).requires_grad_()
    teacher = normal(ROWS, TEACHER_WIDTH), normal(vocab[1], TEACHER_WIDTH, std=0.25)
    student_bias = teacher_bias = None
    if bias or padded:
        student_bias, teacher_bias = normal(vocab[0]), normal(vocab[1])
        if padded:
            student_bias[-padded:] = -math.inf
        student_bias.requires_grad_()
    heads = Head(weight, student_bias, **head), Head(teacher[1], teacher_bias)
    return hidden, teacher[0], heads


def wide(tensor):
    return None if tensor is None else tensor.detach().double().requires_grad_(tensor.requires_grad)


def errors(groups, heads, **options):
    """How far loss and gradients are from float64's, relative to the largest entry."""
    found = walk(groups, *heads, compile_blocks=True, chunk_rows=5, **options)
    leaves = [groups[0].student_rows, heads[0].weight]
    leaves += [] if heads[0].bias is None else [heads[0].bias]
    exact_leaves = [wide(leaf) for leaf in leaves]
    exact_groups = [
        replace(g, student_rows=exact_leaves[0], teacher_rows=wide(g.teacher_rows)) for g in groups
    ]
    exact_head = replace(heads[0], weight=exact_leaves[1], bias=(*exact_leaves[2:], None)[0])
    teacher = replace(heads[1], weight=wide(heads[1].weight), bias=wide(heads[1].bias))
    exact = walk_naive(exact_groups, exact_head, teacher)
    pairs = [
        (found.loss, exact.loss),
        *zip(
            torch.autograd.grad(found.loss, leaves),
            torch.autograd.grad(exact.loss, exact_leaves),
            strict=True,
        ),
    ]
    return [((x.double() - y).abs().max() / y.abs().max()).item() for x, y in pairs]


@pytest.mark.parametrize("columns", [1, 8])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_in_every_type(name, dtype, columns, monkeypatch):
    """Also with columns up to a multiple of 8, which a GPU's products like."""
    monkeypatch.setitem(plan.ALIGNED_COLUMNS, "cpu", columns)
    hidden, teacher, heads = problem(dtype)
    group = Group(name, hidden, make_divergence(name), teacher, temperature=1.5)
    found = errors([group], heads)
    if name == "tvd" and dtype.itemsize == 2:
        # Its gradient jumps where both probabilities are equal, and rounding crosses over.
        found = found[:1]
    assert max(found) < BOUNDS[dtype]


@pytest.mark.parametrize("columns", [1, 8])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 4.0},
        {"scale": 0.3},
        {"bias": True},
        {"padded": 6},
        {"bias": True, "softcap": 4.0, "scale": 2.0},
        {"vocab": (51, 47)},
        {"vocab": (47, 51)},
    ],
    ids=str,
)
def test_heads(options, dtype, columns, monkeypatch):
    monkeypatch.setitem(plan.ALIGNED_COLUMNS, "cpu", columns)
    hidden, teacher, heads = problem(dtype, **options)
    group = Group("jsd", hidden, make_divergence("jsd"), teacher)
    assert max(errors([group], heads)) < BOUNDS[dtype]


@pytest.mark.parametrize("columns", [1, 8])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("vocab", [(51, 51), (51, 47)])
def test_groups_on_the_same_rows(dtype, vocab, columns, monkeypatch):
    """Cross-entropy reads all of the student's ids, a divergence those that both have."""
    monkeypatch.setitem(plan.ALIGNED_COLUMNS, "cpu", columns)
    hidden, teacher, heads = problem(dtype, vocab=vocab)
    labels = torch.arange(ROWS) * 4
    weights = torch.linspace(0.1, 2, ROWS)
    groups = [
        Group("kd", hidden, make_divergence("fkl"), teacher, row_weights=weights),
        Group("ce", hidden, CROSS_ENTROPY, labels=labels, weight=0.4, temperature=2.0),
        Group("jsd", hidden, make_divergence("jsd"), teacher, weight=2.0),
    ]
    assert max(errors(groups, heads)) < BOUNDS[dtype]


def test_entropies_and_values_are_those_of_the_blocks():
    hidden, teacher, heads = problem(torch.float32)
    groups = [
        Group("jsd", hidden, make_divergence("jsd"), teacher),
        Group("ce", hidden, CROSS_ENTROPY, labels=torch.arange(ROWS)),
    ]
    found, expected = (
        walk(groups, *heads, entropies=True, chunk_rows=5, compile_blocks=whole)
        for whole in (True, False)
    )
    torch.testing.assert_close(found.entropies, expected.entropies)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.row_losses, expected.row_losses)


def test_a_divergence_without_a_gradient_of_its_own_is_not_compiled():
    class Squared:
        name = "squared"
        __hash__ = None  # nothing may keep it as a key

        def __call__(self, teacher_logits, student_logits):
            return (teacher_logits.softmax(-1) - student_logits.softmax(-1)).square().sum(-1)

    hidden, teacher, heads = problem(torch.float32)
    group = Group("squared", hidden, Squared(), teacher)
    assert max(errors([group], heads)) < 1e-4
    assert compiled_segment.cache_info().misses == 0


def test_without_gradients_nothing_is_written():
    hidden, teacher, heads = problem(torch.bfloat16)
    group = Group("jsd", hidden, make_divergence("jsd"), teacher)
    expected = walk([group], *heads, compile_blocks=True)
    with torch.no_grad():
        found = walk([group], *heads, compile_blocks=True)
    assert found.loss == expected.loss
    assert not found.loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_on_a_gpu_are_bounded_by_bytes(dtype):
    rows = plan.default_chunk_rows(151936, torch.device("cuda"), dtype)
    assert rows * 151936 * dtype.itemsize <= 2**29 < (rows + 1) * 151936 * dtype.itemsize
    assert plan.aligned(50257, torch.device("cuda")) == 50304
    assert plan.aligned(50257, torch.device("cpu")) == 50257
