"""An architecture that no formula here knows: its parameters are counted on the empty model.

What autograd keeps of it is taken to be what a Llama of these widths keeps, which is an estimate.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from distillens_plugin.costs.architecture import Architecture, Linear
from distillens_plugin.lens.config_facts import block_lists, read_config
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.shapes import empty_model

# What configs call the number of experts in a block, and how many of them a token meets.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_USED = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k")


def counted_architecture(
    fields: Mapping[str, Any], *, trust_remote_code: bool = False
) -> Architecture:
    """Builds the model on the meta device (no memory, no weights) and counts.

    Raises:
        DistillensError: no causal model can be built from it, or it has no list of blocks, or no
            attention.
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
    text = config.get_text_config()
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    blocks = list(model.get_submodule(paths[0]))
    kinds = Counter(tuple(_matrices(block, text)) for block in blocks)
    # Blocks of several kinds count with their mean; paths and widths are those of most.
    linears = kinds.most_common(1)[0][0]
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    total = sum(parameter.numel() for parameter in model.parameters())
    each = sum(p.numel() for block in blocks for p in block.parameters()) // len(blocks)
    tied = head is not None and head.weight is embeddings
    head_shape = embeddings.shape if head is None else head.weight.shape
    separate = 0 if tied or head is None else head.weight.numel()
    experts = [linear for linear in linears if linear.used < linear.copies]
    return Architecture(
        model_type=str(config.model_type),
        num_layers=len(blocks),
        width=width,
        head_width=int(head_shape[1]),
        vocab_size=int(head_shape[0]),
        tied=tied or head is None,
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or width // heads),
        mlp_width=_mlp_width(experts or linears, width),
        activation="silu",
        gated=True,
        norm="rms",
        norms=2,
        qk_norm=False,
        fused_inputs=(3, 2),
        linears=linears,
        block_vectors=each - sum(linear.parameters for linear in linears),
        embeddings=int(embeddings.numel()),
        extra=total - len(blocks) * each - int(embeddings.numel()) - int(separate),
        num_experts=max((linear.copies for linear in experts), default=0),
        experts_per_token=max((linear.used for linear in experts), default=0),
        is_known=False,
        mean_weights_used=_mean(kinds, lambda linear: linear.used_weights),
        share_in_flops=_mean(kinds, lambda linear: linear.parameters) / max(1, each),
    )


def _size(config: Any, key: str) -> int:
    value = getattr(config.get_text_config(), key, None)
    if not isinstance(value, int):
        raise DistillensError(
            f"model_type = {config.model_type!r}: its config has no {key}, from which memory and "
            "time are computed; expected a decoder with attention, such as gpt2 or llama"
        )
    return value


def _mean(kinds: Counter[tuple[Linear, ...]], number: Callable[[Linear], int]) -> float:
    """Of a block."""
    whole = sum(times * sum(map(number, linears)) for linears, times in kinds.items())
    return whole / kinds.total()


def _matrices(block: Any, text: Any) -> Iterator[Linear]:
    """The matrices of a block of which it is known how many a token meets.

    GPT-2's Conv1D has its sides the other way round. Of experts, which lie in one parameter, models
    differ in which side is which, and nothing here depends on it.
    """
    from torch import nn

    for path, module in block.named_modules():
        weight, kind = getattr(module, "weight", None), type(module).__name__
        if weight is not None and weight.dim() == 2 and not isinstance(module, nn.Embedding):
            outputs, inputs = weight.shape
            if kind == "Conv1D":
                outputs, inputs = inputs, outputs
            bias = getattr(module, "bias", None) is not None
            # Not so the routers of experts, which LoRA could not adapt.
            is_module = kind == "Conv1D" or isinstance(module, nn.Linear)
            yield Linear(path, int(inputs), int(outputs), bias, is_module=is_module)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() != 3 or isinstance(module, nn.Conv1d):
                continue
            copies, outputs, inputs = map(int, parameter.shape)
            # Others, such as matrices of each head, meet every token.
            used = _first(text, _USED) if copies == _first(text, _EXPERTS) else copies
            if used is not None:
                place = f"{path}.{name}"
                yield Linear(place, inputs, outputs, copies=copies, used=used, is_module=False)


def _first(text: Any, keys: tuple[str, ...]) -> int | None:
    found = (getattr(text, key, None) for key in keys)
    return next((value for value in found if isinstance(value, int)), None)


def _mlp_width(linears: Sequence[Linear], width: int) -> int:
    """What the MLP is inside; of experts, one of them."""
    if any(linear.copies > linear.used for linear in linears):
        # The matrix that leads back has one of these sides, the others two (gate and up).
        return min(linear.inputs * linear.outputs // width for linear in linears)
    # The most common side of a matrix that is wider than the residual stream.
    wider = Counter(
        side for linear in linears for side in (linear.inputs, linear.outputs) if side > width
    )
    return max(wider, key=lambda side: (wider[side], side), default=width)
