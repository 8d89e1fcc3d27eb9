"""The Triton kernel against float64: `triton_rows.py DEVICE` prints {case: how far off} as JSON.

On "cpu" Triton's interpreter runs it, which has to be chosen before Triton is imported.
"""

import json
import math
import os
import sys
from dataclasses import replace

DEVICE = sys.argv[1]
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from distillens_plugin.divergences import make_divergence  # noqa: E402
from distillens_plugin.fused import Group, Head, triton_segment, walk, walk_naive  # noqa: E402
from distillens_plugin.fused.segment import GroupKind, SegmentKind, segment_block  # noqa: E402

ROWS, VOCAB = 6, 75
triton_segment.DEVICES = (DEVICE,)
triton_segment.BLOCK, triton_segment.NUM_WARPS = 32, 1  # several blocks a row, the last not whole
# An entry's last digit in its type, relative to the row's largest. (Triton's interpreter cuts
# digits of bfloat16 off where a GPU rounds.)
BOUNDS = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
NAMES = {
    "jsd": {},
    "jsd 0.01": {"beta": 0.01},
    "jsd 0.1": {"beta": 0.1},
    "jsd 0.9": {"beta": 0.9},
    "jsd 0": {"beta": 0.0},
    "jsd 1": {"beta": 1.0},
    "fkl": {},
    "rkl": {},
}


def logits(dtype, columns=VOCAB, std=3.0, seed=0):
    """[ROWS, columns] within rows of a multiple of 64, as the walk's buffers are."""
    made = torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(seed)) * std
    buffer = torch.zeros(ROWS, 64 * -(-columns // 64), dtype=dtype)
    buffer[:, :columns] = made.to(dtype)
    return buffer.to(DEVICE)[:, :columns]


def off(name, student, teacher, *, common=VOCAB, temperature=1.0, heads=((1.0, None),) * 2, **more):
    """The worst error of losses and gradient as a share of its bound."""
    divergence = make_divergence(name.split()[0], **NAMES[name])
    group = GroupKind(divergence, temperature, 0)
    kind = SegmentKind((group,), *heads, common, torch.float32, False, True)
    factors = more.get("factors")
    exact, wide = student.double(), replace(kind, dtype=torch.float64)
    wide_factors = None if factors is None else factors.double()
    nothing = (None, None, [None], None)
    expected = segment_block(wide, exact, [teacher.double()], *nothing, wide_factors, None)
    bound = BOUNDS[student.dtype]
    assert triton_segment.takes(kind, student, [teacher], None, None, None)
    found = triton_segment.triton_segment(kind, student, teacher, factors)
    assert found is not None, "it fell back"
    gap = (found.losses[0] - expected.losses[0]).abs()
    loss = gap / (1e-4 * expected.losses[0].abs() + 1e-6)
    largest = exact.abs().amax(-1, keepdim=True)
    gradient = (student.double() - exact).abs() / (bound * largest + 1e-6)
    assert (student[exact == 0].abs() < 1e-6).all()
    return max(loss.max().item(), gradient.max().item())


def formulas():
    for name in NAMES:
        for dtype in BOUNDS:
            yield f"{name} {dtype}", off(name, logits(dtype), logits(dtype, seed=1))


def heads():
    cooled = {"temperature": 2.5, "heads": ((0.3, None), (1.7, None))}
    capped = {"heads": ((1.0, 5.0), (2.0, 8.0)), "temperature": 0.5}
    factors = {"factors": torch.linspace(-1, 2, ROWS, device=DEVICE)}
    for name in ("jsd", "fkl", "rkl"):
        for what, more in (("cooled", cooled), ("capped", capped), ("factors", factors)):
            half = torch.float16 if what == "capped" else torch.bfloat16
            yield f"{name} {what}", off(name, logits(half), logits(half, seed=1), **more)


def columns():
    for name in ("jsd", "fkl", "rkl"):
        student = logits(torch.bfloat16, columns=VOCAB + 20)
        teacher = logits(torch.bfloat16, seed=1)
        yield f"{name} of common ids", off(name, student, teacher)
        assert (student[:, VOCAB:] == 0).all()
        student, teacher = logits(torch.bfloat16), logits(torch.bfloat16, seed=1)
        student[:, 7:11] = teacher[:, -5:] = student[2] = -math.inf
        yield f"{name} absent", off(name, student, teacher)
        assert (student[:, 7:11] == 0).all()
        assert (student[:, -5:] == 0).all()
        assert (student[2] == 0).all()


def extremes():
    for name in ("jsd", "jsd 0.01", "fkl", "rkl"):
        student, teacher = (logits(torch.bfloat16, std=200, seed=seed) for seed in (0, 1))
        yield f"{name} at 200", off(name, student, teacher)
        one_hot = torch.full_like(teacher, -300.0)
        one_hot[:, 40] = 300.0
        yield f"{name} one-hot", off(name, logits(torch.bfloat16), one_hot)
        largest = torch.finfo(torch.bfloat16).max
        one_hot.clamp_(-1, 1).mul_(largest)
        student = logits(torch.bfloat16)
        group = GroupKind(make_divergence(name.split()[0], **NAMES[name]), 1.0, 0)
        kind = SegmentKind((group,), (1.0, None), (1.0, None), VOCAB, torch.float32, False, True)
        result = triton_segment.triton_segment(kind, student, one_hot, None)
        finite = result.losses[0].isfinite().all() and student.isfinite().all()
        yield f"{name} at the type's end", 0.0 if finite else math.inf
        student, teacher = logits(torch.bfloat16), logits(torch.bfloat16)
        losses = triton_segment.triton_segment(kind, student, teacher, None).losses[0]
        same = (losses == 0).all() and (student == 0).all()
        yield f"{name} of equals is 0", 0.0 if same else math.inf
        student = logits(torch.bfloat16)
        student[1, 3], student[4, 60] = math.nan, math.inf
        losses = triton_segment.triton_segment(kind, student, teacher, None).losses[0]
        broken = losses.isnan().nonzero().flatten().tolist()
        gone = student.isnan().any(-1).nonzero().flatten().tolist()
        yield f"{name} of NaN is NaN", 0.0 if broken == gone == [1, 4] else math.inf


def walked():
    """Through the walk, in chunks, beside a group that the kernel does not take."""
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(shape, generator=generator).bfloat16().to(DEVICE)  # noqa: E731
    hidden, weight = make(9, 8).requires_grad_(), (make(VOCAB, 8) * 0.3).requires_grad_()
    group = Group("jsd", hidden, make_divergence("jsd"), make(9, 10), temperature=1.5)
    teacher = Head(make(VOCAB + 4, 10) * 0.25)
    before = triton_segment.launches()
    found = walk([group], Head(weight), teacher, compile_blocks=True, chunk_rows=4)
    assert triton_segment.launches() == before + 3
    gradients = torch.autograd.grad(found.loss, [hidden, weight])
    leaves = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    wide = replace(group, student_rows=leaves[0], teacher_rows=group.teacher_rows.double())
    exact = walk_naive([wide], Head(leaves[1]), Head(teacher.weight.double()))
    expected = [exact.loss, *torch.autograd.grad(exact.loss, leaves)]
    for what, x, y in zip(
        ("loss", "rows", "weight"), [found.loss, *gradients], expected, strict=True
    ):
        yield f"walk {what}", ((x.double() - y).abs().max() / (3e-2 * y.abs().max())).item()
    with torch.no_grad():
        again = walk([group], Head(weight), teacher, compile_blocks=True, chunk_rows=4)
    yield "walk without gradients", 0.0 if again.loss == found.loss else math.inf


if __name__ == "__main__":
    parts = (formulas, heads, columns, extremes, walked)
    print(json.dumps({case: error for part in parts for case, error in part()}))
