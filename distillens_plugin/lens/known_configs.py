"""Facts from a plain config of a well-known architecture, without torch.

For anything else the model must be built on the meta device (`config_facts.facts_from_config`),
which takes seconds to load. So this answers only for a config of which every key is known here,
with a value that its model class takes. A test compares the answers with the built models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distillens_plugin.lens.config_facts import PEFT_PREFIX, ModelFacts
from eval_harness.shared.model_folder.config_files import check_config

Check = Callable[[object], bool]


def _count(value: object) -> bool:
    return type(value) is int and value > 0


def _id(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _share(value: object) -> bool:
    return isinstance(value, float) and 0 <= value < 1


def _positive(value: object) -> bool:
    return isinstance(value, float) and value > 0


def _positive_number(value: object) -> bool:
    return _positive(value) or _count(value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _none(value: object) -> bool:
    return value is None


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


_ACTIVATION = _one_of("gelu", "gelu_new", "relu", "silu")
_TYPE = _one_of("float32", "float16", "bfloat16")
# What every config may hold, and what changes nothing here.
_COMMON: Mapping[str, Check] = {
    "bos_token_id": _id,
    "dtype": _TYPE,
    "eos_token_id": _id,
    "initializer_range": _share,
    "model_type": lambda value: True,
    "pad_token_id": _id,
    "tie_word_embeddings": _flag,
    "torch_dtype": _TYPE,
    "transformers_version": lambda value: isinstance(value, str),
    "use_cache": _flag,
    "vocab_size": _count,
}
_GPT2: Mapping[str, Check] = {
    "activation_function": _ACTIVATION,
    "attn_pdrop": _share,
    "embd_pdrop": _share,
    "layer_norm_epsilon": _positive,
    "n_ctx": _count,
    "n_embd": _count,
    "n_head": _count,
    "n_layer": _count,
    "n_positions": _count,
    "resid_pdrop": _share,
}
_LLAMA: Mapping[str, Check] = {
    "attention_dropout": _share,
    "hidden_act": _ACTIVATION,
    "hidden_size": _count,
    "intermediate_size": _count,
    "max_position_embeddings": _count,
    "num_attention_heads": _count,
    "num_hidden_layers": _count,
    "num_key_value_heads": _count,
    "rms_norm_eps": _positive,
    "rope_scaling": _none,
    "rope_theta": _positive_number,
}


@dataclass(frozen=True)
class _Architecture:
    """Where the blocks are, the class, the defaults, and the keys of layers, width and so on."""

    blocks: str
    class_name: str
    vocab_size: int
    tied: bool
    layers: str
    width: str
    heads: str
    positions: str
    keys: Mapping[str, Check]


def _llama_like(
    class_name: str, vocab_size: int, keys: Mapping[str, Check] | None = None
) -> _Architecture:
    return _Architecture(
        blocks="model.layers",
        class_name=class_name,
        vocab_size=vocab_size,
        tied=False,
        layers="num_hidden_layers",
        width="hidden_size",
        heads="num_attention_heads",
        positions="max_position_embeddings",
        keys={**_LLAMA, **(keys or {})},
    )


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "gpt2": _Architecture(
        blocks="transformer.h",
        class_name="GPT2LMHeadModel",
        vocab_size=50257,
        tied=True,
        layers="n_layer",
        width="n_embd",
        heads="n_head",
        positions="n_positions",
        keys=_GPT2,
    ),
    "llama": _llama_like(
        "LlamaForCausalLM",
        32000,
        {
            "attention_bias": _flag,
            "is_llama_config": _flag,
            "mlp_bias": _flag,
            "pretraining_tp": _count,
            "rope_interleaved": _flag,
        },
    ),
    "qwen2": _llama_like(
        "Qwen2ForCausalLM",
        151936,
        {
            "max_window_layers": _count,
            "sliding_window": _id,
            "use_mrope": lambda value: value is False,
            "use_sliding_window": lambda value: value is False,
        },
    ),
}


def known_facts(fields: Mapping[str, object], *, peft: bool = False) -> ModelFacts | None:
    """The facts that `facts_from_config` would find, or None if the model must be built for them.

    Args:
        fields: of a config.json.
        peft: as in `facts_from_config`.
    Raises:
        DistillensError: numbers beyond every real model.
    """
    model_type = fields.get("model_type")
    known = _ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if known is None or not _is_plain(fields, known):
        return None
    check_config(fields)
    numbers = {key: value for key, value in fields.items() if type(value) is int}
    width, heads = numbers[known.width], numbers[known.heads]
    groups = numbers.get("num_key_value_heads", heads)
    # Rotary positions turn pairs of numbers.
    if width % heads or heads % groups or width // heads % 2:
        return None
    vocab_size = numbers.get("vocab_size", known.vocab_size)
    if numbers.get("pad_token_id", 0) >= vocab_size:
        return None
    return ModelFacts(
        num_layers=numbers[known.layers],
        width=width,
        vocab_size=vocab_size,
        tied=bool(fields.get("tie_word_embeddings", known.tied)),
        blocks=(PEFT_PREFIX if peft else "") + known.blocks,
        num_positions=numbers[known.positions],
    )


def _is_plain(fields: Mapping[str, object], known: _Architecture) -> bool:
    needed = {known.layers, known.width, known.heads, known.positions}
    if not needed <= fields.keys() or fields.get("architectures") not in (
        None,
        [known.class_name],
    ):
        return False
    checks = {**_COMMON, **known.keys, "architectures": lambda value: True}
    return all(key in checks and checks[key](value) for key, value in fields.items())
