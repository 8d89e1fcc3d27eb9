"""The fused walk: vocabulary losses and gradients, never more than a chunk of rows at once.

It goes over the rows of all groups chunk by chunk. The student's and the teacher's matrix products
go into reused buffers. Losses and the gradient towards the student's logits are computed block by
block and written over the logits (blocks.py). That gradient gives the chunk's part of the gradients
towards rows, weight and bias. The backward pass only scales them. docs/fused.md has the
measurements behind each choice.

Legend: R rows, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillens_plugin.fused.chunks import ChunkWalker
from distillens_plugin.fused.parts import Group, Head, WalkResult, check_groups
from distillens_plugin.fused.plan import RowSet, row_sets_of

Gradients = list[Tensor | None]


@torch.compiler.disable
def walk(
    groups: Sequence[Group],
    student: Head,
    teacher: Head | None = None,
    *,
    chunk_rows: int | None = None,
    entropies: bool = False,
    compile_blocks: bool | None = None,
) -> WalkResult:
    """The weighted sum of all groups' values, with gradients to the student's rows, weight and
    bias.

    Divergences are over the ids that both vocabularies have, min(V_s, V_t); cross-entropy is over
    the student's V_s. Matrix products run in the weight's type (autocast's where that is on),
    everything else in float32 (float64 for float64 weights). The gradients are computed in the
    forward pass. A second backward needs retain_graph=True in the first; a double backward (the
    gradient of a gradient) is refused.

    Args:
        groups: at least one; names unique.
        student: its weight and bias get gradients if they ask for them.
        teacher: gets none; None if every group is cross-entropy.
        chunk_rows: rows at a time; None chooses by vocabulary and device.
        entropies: also return mean entropies.
        compile_blocks: run the elementwise passes through torch.compile; None does on CUDA.
    Returns:
        WalkResult; no value in it was copied to the host.
    Raises:
        ValueError: groups and heads that do not fit together, chunk_rows < 1, labels outside [0,
            V_s).
    """
    groups = list(groups)
    check_groups(groups, student, teacher)
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows = {chunk_rows}, expected a number of rows >= 1, or None")
    _check_labels(groups, student)
    row_sets = row_sets_of(groups)
    leaves = _leaves(row_sets, student)
    wanted = [
        torch.is_grad_enabled() and leaf is not None and leaf.requires_grad for leaf in leaves
    ]
    walker = ChunkWalker(
        row_sets,
        student,
        teacher,
        chunk_rows=chunk_rows,
        entropies=entropies,
        compile_blocks=compile_blocks,
    )

    def run() -> tuple[Tensor, Gradients, Tensor | float]:
        device = student.weight.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            gradients = walker.run(wanted)
            return walker.loss(), gradients, walker.unit

    if any(wanted):
        asked = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
        loss = _Walk.apply(run, *asked)
    else:
        loss = run()[0]
    return walker.result(loss)


class _Walk(torch.autograd.Function):
    """Runs the walk in forward, gradients included; backward returns them, scaled."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[], tuple[Tensor, Gradients, Tensor | float]], *leaves: Tensor
    ) -> Tensor:
        loss, gradients, unit = run()
        ctx.gradients = [gradient for gradient in gradients if gradient is not None]
        ctx.unit = unit
        ctx.dtypes = [leaf.dtype for leaf in leaves]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the fused lens gave its gradients to the first backward and kept no copy; call "
                "backward(retain_graph=True) the first time, or compute the loss again"
            )
        factor = grad_output * ctx.unit
        if _graph_is_kept():
            return None, *(
                (gradient * factor).to(dtype)
                for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
            )
        gradients, ctx.gradients = ctx.gradients, None
        if factor.device.type != "cpu" or factor.item() != 1:
            for gradient in gradients:
                gradient.mul_(factor)
        cast: list[Tensor | None] = [None]
        while gradients:
            # One by one, so that no list keeps a full-precision copy alive beside the cast one.
            cast.append(gradients.pop(0).to(ctx.dtypes[len(cast) - 1]))
        return tuple(cast)


def _graph_is_kept() -> bool:
    """Whether this backward runs with retain_graph=True, where the gradients must not be used up.

    AOTAutograd decides by the same call; without it a second backward is an error, never wrong.
    """
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is not None and ask()


def _leaves(row_sets: list[RowSet], student: Head) -> list[Tensor | None]:
    """What may get a gradient: each row set's rows, then weight and bias unless all detach them."""
    attached = any(row_set.attached for row_set in row_sets)
    head = [student.weight, student.bias] if attached else [None, None]
    return [*(row_set.rows for row_set in row_sets), *head]


def _check_labels(groups: list[Group], student: Head) -> None:
    for group in groups:
        labels = group.labels if group.is_cross_entropy else None
        # On a GPU the check would wait for the device, whose own assertion stops a wrong index.
        if labels is None or labels.device.type != "cpu" or labels.numel() == 0:
            continue
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= student.vocab_size:
            raise ValueError(
                f"group {group.name!r}: labels from {low} to {high}, expected ids in [0, "
                f"{student.vocab_size}); give the walk supervised rows only"
            )
