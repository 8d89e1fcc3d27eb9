"""What memory and time need to know of a model: its matrices, widths and block's operations."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# rms: RMSNorm; gemma: RMSNorm whose scale is applied in float32; layer: LayerNorm.
Norm = Literal["rms", "gemma", "layer"]


@dataclass(frozen=True)
class Linear:
    """A matrix of a block: `copies` of them (experts), of which each token uses `used`.

    Attributes:
        is_module: whether it is a module of its own that LoRA could adapt.
    """

    path: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    used: int = 1
    is_module: bool = True

    @property
    def parameters(self) -> int:
        return self.copies * (self.inputs + self.bias) * self.outputs

    @property
    def used_weights(self) -> int:
        """Of one token: what its two FLOPs per weight are counted with."""
        return self.used * self.inputs * self.outputs


@dataclass(frozen=True)
class Architecture:
    """A decoder of equal blocks.

    Attributes:
        width: of the residual stream, D; head_width: of what the head reads (OPT-350m projects).
        mlp_width: F, what a token's MLP (with experts: one expert) is inside.
        fused_inputs: how many matrices read the norm before attention, and before the MLP.
        dropout: after a block's halves; attention_dropout: on the attention's probabilities.
        eager: attention keeps its [T, T] probabilities, since no fused kernel has its formula.
        block_vectors: parameters of a block beside its matrices and their biases.
        embeddings: parameters of the token embeddings; extra: of positions, final norm and so on.
        is_known: counted by this package's formulas, not only by building the empty model.
        mean_weights_used: weights that a token meets, where blocks differ from each other; None:
            those of `linears`.
        share_in_flops: share of a block's parameters of whose use `mean_weights_used` tells; the
            rest is small vectors, or what is unknown.
    """

    model_type: str
    num_layers: int
    width: int
    head_width: int
    vocab_size: int
    tied: bool
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    activation: str
    gated: bool
    norm: Norm
    norms: int
    qk_norm: bool
    fused_inputs: tuple[int, int]
    linears: tuple[Linear, ...]
    block_vectors: int
    embeddings: int
    extra: int
    eager: bool = False
    experts_per_token: int = 0
    num_experts: int = 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    num_positions: int | None = None
    is_known: bool = True
    mean_weights_used: float | None = None
    share_in_flops: float = 1.0

    @property
    def block_parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears) + self.block_vectors

    @property
    def block_weights_used(self) -> float:
        """Weights of a block that one token meets, for FLOPs."""
        if self.mean_weights_used is not None:
            return self.mean_weights_used
        return sum(linear.used_weights for linear in self.linears)

    @property
    def head_parameters(self) -> int:
        """Of the unembedding's matrix, whether or not it is the embeddings' too."""
        return self.vocab_size * self.head_width

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once."""
        head = 0 if self.tied else self.head_parameters
        return self.embeddings + self.extra + self.num_layers * self.block_parameters + head

    @property
    def tail_parameters(self) -> int:
        """Of the unit that stays whole under FSDP2: embeddings, final norm and head."""
        return self.num_parameters - self.num_layers * self.block_parameters

    def modules(self) -> Iterator[Linear]:
        """The matrices of a block that are modules."""
        return (linear for linear in self.linears if linear.is_module)
