"""A training run as its costs see it: what `shardings`, `flops` and `changes` compute from."""

from dataclasses import dataclass, replace

from distillens_plugin.costs.activations import Adapters, Shape
from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.precision import Precision
from distillens_plugin.costs.walk import WalkRows


@dataclass(frozen=True)
class Cost:
    """A model with the type of its weights."""

    model: Architecture
    at: Precision

    @property
    def bytes(self) -> int:
        return self.model.num_parameters * self.at.weights


@dataclass(frozen=True)
class Run:
    """One optimiser step, on one device.

    Attributes:
        adapters: None trains all of the student.
        teacher: None in a run without one.
        teacher_layers: how many of its residual streams the losses read.
        shape: of a batch.
        moments: numbers that the optimiser keeps for each parameter.
        batches: per optimiser step (grad_accum_step).
        chunk_rows: the recipe's; None lets the walk choose.
    """

    student: Cost
    adapters: Adapters | None
    checkpointing: bool
    teacher: Cost | None
    teacher_layers: int
    shape: Shape
    walk: WalkRows
    moments: int
    batches: int
    chunk_rows: int | None

    @property
    def trained(self) -> int:
        """Parameters that get a gradient."""
        if self.adapters is None:
            return self.student.model.num_parameters
        return adapter_parameters(self.student.model, self.adapters)

    @property
    def trained_bytes(self) -> int:
        """Of one trained parameter: peft keeps adapters in float32."""
        return 4 if self.adapters is not None else self.student.at.weights

    def with_batch(self, rows: int) -> "Run":
        """With fewer rows in a batch and more batches, for the same rows in a step."""
        before = self.shape.rows
        shape = replace(
            self.shape,
            rows=rows,
            padded=self.shape.padded and rows > 1,
            supervised=-(-self.shape.supervised * rows // before),
        )
        return replace(self, shape=shape, batches=self.batches * before // rows)


def adapter_parameters(model: Architecture, adapters: Adapters) -> int:
    """Two narrow matrices for each adapted one."""
    widths = sum(
        linear.inputs + linear.outputs
        for linear in model.modules()
        if linear.path in adapters.targets
    )
    return model.num_layers * adapters.rank * widths
