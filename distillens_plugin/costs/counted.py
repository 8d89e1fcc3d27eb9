"""An architecture that no formula here knows: its parameters are counted on the empty model.

What autograd keeps of it is taken to be what a Llama of these widths keeps, which is an estimate.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from distillens_plugin.costs.architecture import Architecture, Linear
from distillens_plugin.lens.config_facts import block_lists, read_config
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.shapes import empty_model


def counted_architecture(
    fields: Mapping[str, Any], *, trust_remote_code: bool = False
) -> Architecture:
    """Builds the model on the meta device (no memory, no weights) and counts.

    Raises:
        DistillensError: no causal model can be built from it, or it has no list of blocks.
    """
    config = read_config(fields)
    model = empty_model(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    paths = block_lists(model)
    if not paths:
        raise DistillensError(
            f"model_type = {config.model_type!r}: found no list of blocks, expected a decoder of "
            "blocks such as gpt2 or llama"
        )
    blocks = list(model.get_submodule(paths[0]))
    text = config.get_text_config()
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    total = sum(parameter.numel() for parameter in model.parameters())
    each = sum(p.numel() for block in blocks for p in block.parameters()) // len(blocks)
    linears = _linears(blocks[0])
    tied = head is not None and head.weight is embeddings
    head_shape = embeddings.shape if head is None else head.weight.shape
    heads = int(text.num_attention_heads)
    of_matrices = sum(linear.parameters for linear in linears)
    separate = 0 if tied or head is None else head.weight.numel()
    return Architecture(
        model_type=str(config.model_type),
        num_layers=len(blocks),
        width=int(text.hidden_size),
        head_width=int(head_shape[1]),
        vocab_size=int(head_shape[0]),
        tied=tied or head is None,
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        mlp_width=_mlp_width(linears, int(text.hidden_size)),
        activation="silu",
        gated=True,
        norm="rms",
        norms=2,
        qk_norm=False,
        fused_inputs=(3, 2),
        linears=linears,
        # Blocks of several kinds count with their mean.
        block_vectors=each - of_matrices,
        embeddings=int(embeddings.numel()),
        extra=total - len(blocks) * each - int(embeddings.numel()) - int(separate),
        is_known=False,
    )


def _linears(block: Any) -> tuple[Linear, ...]:
    """The matrices of a block; GPT-2's Conv1D has its sides the other way round."""
    found = []
    for path, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() != 2:
            continue
        outputs, inputs = weight.shape
        if type(module).__name__ == "Conv1D":
            outputs, inputs = inputs, outputs
        bias = getattr(module, "bias", None) is not None
        found.append(Linear(path, int(inputs), int(outputs), bias))
    return tuple(found)


def _mlp_width(linears: tuple[Linear, ...], width: int) -> int:
    """The most common side of a matrix that is wider than the residual stream."""
    wider = Counter(
        side for linear in linears for side in (linear.inputs, linear.outputs) if side > width
    )
    return max(wider, key=lambda side: (wider[side], side), default=width)
