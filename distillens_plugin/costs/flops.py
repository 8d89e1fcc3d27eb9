"""A run's arithmetic: matrix products only, which is nearly all of it.

A forward pass takes 2 FLOPs for each weight that a token meets, a backward pass twice as many;
causal attention takes 2 more for each key that a query sees on average. Source: Kaplan et al. 2020
(arXiv 2001.08361), section 2.1. The unembedding is counted where the losses read it, not at every
token.
"""

from dataclasses import dataclass

from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.run import Run
from distillens_plugin.costs.walk import walk_flops


@dataclass(frozen=True)
class Flops:
    """Of one row of mean length, by part."""

    student: float
    teacher: float
    walk: float

    @property
    def total(self) -> float:
        return self.student + self.teacher + self.walk


def row_flops(run: Run, tokens: float, supervised: float, *, teacher_runs: bool = True) -> Flops:
    """Of one row.

    Args:
        tokens, supervised: of the row.
        teacher_runs: False where its states come from a cache.
    """
    student = _forward(run.student.model, tokens)
    # Frozen weights get no gradient, but the one that passes through them is still computed.
    passes = (3 if run.adapters is None else 2) + run.checkpointing
    theirs = None if run.teacher is None else run.teacher.model
    teacher = 0.0 if theirs is None or not teacher_runs else _forward(theirs, tokens)
    walk = walk_flops(run.walk, 1, run.student.model, theirs, trains_head=run.adapters is None)
    return Flops(passes * student, teacher, walk * supervised)


def _forward(model: Architecture, tokens: float) -> float:
    """Of one row without its head; a query sees half of the row on average."""
    attention = 2.0 * model.heads * model.head_dim * tokens
    return tokens * model.num_layers * (2.0 * model.block_weights_used + attention)
