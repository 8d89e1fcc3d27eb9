"""Memory of a device under each way of sharing out student and teacher.

P parameters, n devices that share. Sources: the ZeRO paper (arXiv 1910.02054) for what each stage
shares; FSDP2 keeps a unit's parameters whole only while it runs, except for the last one, with the
head, which the losses read (docs/scale.md).
"""

from dataclasses import dataclass
from typing import Literal

from distillens_plugin.costs.activations import block_bytes, whole_bytes
from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.precision import Precision
from distillens_plugin.costs.run import Run
from distillens_plugin.costs.walk import walk_bytes

Sharding = Literal["one device", "ddp", "zero2", "fsdp2", "hsdp"]
Placement = Literal["none", "replicated", "sharded", "states only"]

# DeepSpeed's reduce_bucket_size, in numbers.
_ZERO_BUCKET = 500_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        weights: of the student, with gathered units and autocast's copies.
        gradients: with the buffers that they are exchanged in.
        logits: the pass over the vocabulary.
        teacher: its weights, its states and its forward pass.
        peak: the most at one time, which is less than the sum: activations go as gradients come.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    teacher: float
    peak: float


def memory(
    run: Run, sharding: Sharding, placement: Placement, sharers: int, *, first_step: bool = False
) -> Memory:
    """Of one device in a step.

    Args:
        sharers: devices that share what the sharding shares (under hsdp those of a node).
        first_step: of a run, before the optimiser has its moments: what `--dry-run` measures.
    """
    weights, copies, block_copies = _student_weights(run, sharding, sharers)
    gradients, held = _gradients(run, sharding, sharers)
    optimiser, scratch = _optimiser(run, sharding, sharers)
    student, shape = run.student, run.shape
    at = _inside(student.at, sharding)
    activations = shape.tokens * whole_bytes(
        student.model, at, shape, run.adapters, checkpointing=run.checkpointing
    )
    block = shape.tokens * block_bytes(student.model, at, shape, run.adapters)
    walk = walk_bytes(
        run.walk,
        shape.supervised,
        (student.model, student.at),
        None if run.teacher is None else (run.teacher.model, run.teacher.at),
        trains_head=run.adapters is None,
        given_chunk_rows=run.chunk_rows,
    )
    teacher_weights, states, forward = _teacher(run, placement, sharers)
    # A tied head gets a second gradient, from the embeddings.
    twice = student.model.tied and run.adapters is None
    second = student.model.head_parameters * student.at.weights if twice else 0
    still = weights + teacher_weights
    moments = 0.0 if first_step else optimiser
    phases = [
        still + moments + held + states + forward,
        still + copies + moments + held + activations + states + walk.kept + walk.chunk,
        still + block_copies + moments + gradients + block + second,
        still + optimiser + gradients + scratch,
    ]
    if run.checkpointing:
        # The last block runs again when all inputs and the walk's gradients are still there.
        kept = held + activations + states + walk.kept
        phases.append(still + block_copies + moments + kept + block)
    return Memory(
        weights=weights + copies,
        gradients=gradients,
        optimiser=optimiser,
        activations=activations + (block if run.checkpointing else 0),
        logits=walk.kept + walk.chunk,
        teacher=teacher_weights + states + forward,
        peak=max(phases),
    )


def _inside(at: Precision, sharding: Sharding) -> Precision:
    """What a model's operations see: DeepSpeed makes the weights themselves half precision."""
    return Precision(2, False, at.device) if sharding == "zero2" and at.casts else at


def _student_weights(run: Run, sharding: Sharding, sharers: int) -> tuple[float, float, float]:
    """Stored for good, and beside them when the forward pass ends, and while one block runs."""
    model, at = run.student.model, run.student.at
    adapters = 4 * run.trained if run.adapters is not None else 0
    if sharding in ("fsdp2", "hsdp"):
        stored = (run.student.bytes + adapters) / sharers
        whole = _whole_units(model) * at.products
        return stored, whole, whole
    if sharding == "zero2" and at.casts:
        return model.num_parameters * 2 + adapters, 0, 0
    cast = 2.0 * sum(linear.parameters for linear in model.modules()) if at.casts else 0.0
    # Autocast keeps copies of what is trained until the forward pass is over; others are kept by
    # autograd, unless blocks are computed again.
    again = run.checkpointing and run.adapters is not None
    return run.student.bytes + adapters, cast * (1 if again else model.num_layers), cast


def _gradients(run: Run, sharding: Sharding, sharers: int) -> tuple[float, float]:
    """When the backward pass ends, and what is held during a forward pass."""
    model, size = run.student.model, run.trained_bytes
    whole = float(run.trained * size)
    if sharding == "one device":
        return whole, whole if run.batches > 1 else 0
    if sharding == "ddp":
        # DDP's buckets are a second copy, and stay.
        return 2 * whole, 2 * whole if run.batches > 1 else whole
    if sharding == "zero2":
        item = 2 if run.student.at.casts else size
        bucket = min(run.trained, _ZERO_BUCKET) * item
        own = run.trained * item / sharers
        return own + bucket, own + bucket if run.batches > 1 else 0
    # Until the last batch of a step, FSDP2 adds up whole gradients.
    if run.batches > 1:
        return whole + whole / sharers, whole
    units = run.trained if run.adapters is not None else _whole_units(model)
    return whole / sharers + units * size, 0


def _whole_units(model: Architecture) -> int:
    """Parameters of the units that FSDP2 has whole at a time: the last, and two blocks."""
    return model.tail_parameters + 2 * model.block_parameters


def _optimiser(run: Run, sharding: Sharding, sharers: int) -> tuple[float, float]:
    """Its state, and its scratch memory in a step."""
    numbers, size = run.trained, run.trained_bytes
    share = 1 if sharding in ("one device", "ddp") else sharers
    state = float(run.moments * numbers * size) / share
    if sharding == "zero2":
        # Float32 master weights, whatever the type of the weights.
        return (run.moments + 1) * 4.0 * numbers / share, 4.0 * numbers / share
    if not run.moments:
        return state, 0.0
    # torch steps over all parameters at once on CUDA, and one by one, with two copies, on a CPU.
    together = numbers if run.student.at.device == "cuda" else 2 * _largest_trained(run)
    return state, float(together * size) / share


def _largest_trained(run: Run) -> int:
    """Numbers of the largest parameter that is trained."""
    model, adapters = run.student.model, run.adapters
    if adapters is None:
        return max(model.embeddings, *(linear.parameters for linear in model.linears))
    adapted = [linear for linear in model.modules() if linear.path in adapters.targets]
    return adapters.rank * max(max(linear.inputs, linear.outputs) for linear in adapted)


def _teacher(run: Run, placement: Placement, sharers: int) -> tuple[float, float, float]:
    """Its weights, the states that the losses read, and what its forward pass takes meanwhile."""
    if run.teacher is None or placement == "none":
        return 0, 0, 0
    model, item = run.teacher.model, run.teacher.at.weights
    if placement == "states only":
        rows = run.shape.supervised * (run.teacher_layers * model.width + model.head_width)
        head = model.head_parameters + model.width
        return head * item, float(rows * item), 0
    states = run.shape.tokens * (run.teacher_layers * model.width + model.head_width) * item
    inner = model.mlp_width * max(1, model.experts_per_token)
    forward = run.shape.tokens * (3 * inner * item + model.width * (2 * item + 8))
    if placement == "replicated":
        return run.teacher.bytes, float(states), float(forward)
    whole = _whole_units(model) * item
    return run.teacher.bytes / sharers + whole, float(states), float(forward)
