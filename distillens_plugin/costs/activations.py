"""What autograd keeps of a forward pass for the backward pass, in bytes per token.

Counted operation by operation, as transformers writes these models and torch saves their tensors; a
test counts the same with `saved_tensors_hooks`. Docstrings use D width, F the MLP's width, A and G
the widths of all query heads and of all key heads, H heads, T tokens of a row.
"""

from dataclasses import dataclass

from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.precision import Precision


@dataclass(frozen=True)
class Adapters:
    """LoRA: its rank, and the paths of the matrices of a block that it adapts.

    Attributes:
        elsewhere: targets outside the blocks, such as the head; they are not counted.
    """

    rank: int
    targets: frozenset[str]
    dropout: float
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """A batch on one device.

    Attributes:
        rows, length: B and T, with padding.
        padded: rows differ in length, so attention reads a mask.
        supervised: positions that the losses read, N.
    """

    rows: int
    length: int
    padded: bool
    supervised: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def block_bytes(
    model: Architecture, at: Precision, shape: Shape, adapters: Adapters | None
) -> float:
    """Of one block, per token."""
    before_attention, before_mlp = model.fused_inputs
    kept = _norm(model, at, before_attention, adapters) + _norm(model, at, before_mlp, adapters)
    if model.norms == 4:
        kept += 2 * _post_norm(model, at, adapters)
    kept += _attention(model, at, shape, adapters) + _mlp(model, at, adapters)
    if model.dropout:
        kept += 2 * model.width * _mask_bytes(at)
    if adapters is not None:
        kept += _adapters(model, at, adapters)
    return kept


def whole_bytes(
    model: Architecture,
    at: Precision,
    shape: Shape,
    adapters: Adapters | None,
    *,
    checkpointing: bool,
) -> float:
    """Of all blocks, embeddings and the final norm, per token, when the forward pass is over.

    Args:
        checkpointing: only each block's input is kept.
    """
    block = float(model.width * at.stream)
    if not checkpointing:
        block = block_bytes(model, at, shape, adapters)
    ends = 8 + model.width * at.stream + _norm(model, at, 0, adapters)
    if model.dropout:
        ends += model.width * _mask_bytes(at)
    return model.num_layers * block + ends


def _norm(model: Architecture, at: Precision, readers: int, adapters: Adapters | None) -> float:
    """A norm and what its `readers`, the matrices after it, keep of its output."""
    width, trained = model.width, adapters is None
    if model.norm == "layer":
        kept = float(width * at.stream + 2 * at.stream)
    else:
        # RMSNorm computes in float32, which for half-precision weights is a copy.
        kept = 4.0 * width + 4
        if trained:
            kept += width * (4 if model.norm == "gemma" else at.stream)
    if trained and readers:
        # Autocast makes a copy for each matrix that reads it.
        kept += width * (at.products * readers if at.casts else at.stream)
    return kept


def _post_norm(model: Architecture, at: Precision, adapters: Adapters | None) -> float:
    """Gemma's norm after attention or MLP: only a sum reads its output."""
    return model.width * (4.0 if adapters is not None else 8.0) + 4


def _attention(
    model: Architecture, at: Precision, shape: Shape, adapters: Adapters | None
) -> float:
    """Queries, keys, values, output and the log-sums; [T, T] only where no fused kernel runs."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    kept = 4.0 * model.heads
    # With a mask or without a fused kernel, keys and values are repeated for all query heads.
    read = queries if shape.padded or model.eager else keys
    kept += at.products * (2 * queries + 2 * read)
    if model.eager:
        kept += 8.0 * model.heads * shape.length
    elif model.attention_dropout and at.device == "cpu":
        # The CPU's fused kernel has no dropout.
        kept += 12.0 * model.heads * shape.length
    elif shape.padded:
        kept += at.products * shape.length
    if model.qk_norm:
        each = 4 if adapters is not None else 8 if model.norm == "gemma" else 4 + at.products
        kept += each * (queries + keys) + 4 * (model.heads + model.kv_heads)
    return kept


def _mlp(model: Architecture, at: Precision, adapters: Adapters | None) -> float:
    """What the activation function, the product with the gate and the last matrix keep."""
    inner, trained = model.mlp_width, adapters is None
    if model.num_experts:
        # The experts' products run in the weights' type, also under autocast.
        each = 4 * inner + 2 * model.width
        return at.weights * model.experts_per_token * each + 12.0 * model.num_experts
    # The last matrix keeps its input, unless it is frozen.
    last = inner * at.products if trained else 0
    if model.gated:
        return 3 * inner * at.products + last
    if model.activation == "relu":
        return inner * at.products
    if model.activation == "gelu_new":
        # Written out in transformers: five numbers a unit. CUDA's autocast computes powers, and
        # what follows from them, in float32.
        wide = at.casts and at.device == "cuda"
        return inner * (14 if wide else 4 * at.products) + last
    return inner * at.products + last


def _adapters(model: Architecture, at: Precision, adapters: Adapters) -> float:
    """LoRA keeps the input of its first matrix after dropout, the dropout's mask, and r numbers."""
    kept = 0.0
    for linear in model.modules():
        if linear.path in adapters.targets:
            mask = _mask_bytes(at) if adapters.dropout else 0
            kept += linear.inputs * (at.products + mask) + adapters.rank * at.products
    return kept


def _mask_bytes(at: Precision) -> int:
    """A mask of dropout: bool on CUDA, of the products' type on a CPU."""
    return 1 if at.device == "cuda" else at.products
