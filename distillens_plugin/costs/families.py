"""The architectures whose parameters and activations are known from config.json alone.

Key names and defaults are those of the config classes of transformers. A test compares every count
with the model built on the meta device.
"""

from collections.abc import Callable, Mapping

from distillens_plugin.costs.architecture import Architecture, Linear, Norm

Fields = Mapping[str, object]


def known_architecture(fields: Fields) -> Architecture | None:
    """The architecture of a config.json; None if it is no known one, or leaves out its sizes."""
    make = _FAMILIES.get(str(fields.get("model_type")))
    try:
        return None if make is None else make(fields)
    except _UnknownError:
        return None


class _UnknownError(Exception):
    """A size is missing or odd, so the model class must be asked."""


def _size(fields: Fields, key: str, default: int | None = None) -> int:
    value = fields.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise _UnknownError(key)
    return value


def _share(fields: Fields, key: str, default: float) -> float:
    value = fields.get(key, default)
    return float(value) if isinstance(value, int | float) else default


def _text(fields: Fields, keys: tuple[str, ...], default: str) -> str:
    return next((str(fields[key]) for key in keys if fields.get(key) is not None), default)


def _flag(fields: Fields, key: str, default: bool) -> bool:
    return bool(fields.get(key, default))


def _experts(path: str, inputs: int, outputs: int, copies: int, used: int) -> Linear:
    """One matrix of all experts, which transformers keeps in one parameter."""
    return Linear(path, inputs, outputs, copies=copies, used=used, is_module=False)


def _llama_like(
    fields: Fields,
    *,
    norm: Norm = "rms",
    norms: int = 2,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    eager: bool = False,
    tied: bool = False,
    vocab_size: int = 32000,
    activation: str = "silu",
    experts: int = 0,
    experts_per_token: int = 0,
) -> Architecture:
    width, heads = _size(fields, "hidden_size"), _size(fields, "num_attention_heads")
    # A key that is null means as many as heads, where the class allows it.
    absent = heads if "num_key_value_heads" in fields else kv_heads or heads
    groups = _size(fields, "num_key_value_heads", absent)
    dim = _size(fields, "head_dim", head_dim or width // heads)
    inner, vocab = _size(fields, "intermediate_size"), _size(fields, "vocab_size", vocab_size)
    linears = [
        Linear("self_attn.q_proj", width, heads * dim, qkv_bias),
        Linear("self_attn.k_proj", width, groups * dim, qkv_bias),
        Linear("self_attn.v_proj", width, groups * dim, qkv_bias),
        Linear("self_attn.o_proj", heads * dim, width, out_bias),
    ]
    if experts:
        linears += [
            Linear("mlp.gate", width, experts, is_module=False),
            _experts("mlp.experts.gate_up_proj", width, 2 * inner, experts, experts_per_token),
            _experts("mlp.experts.down_proj", inner, width, experts, experts_per_token),
        ]
    else:
        linears += [
            Linear("mlp.gate_proj", width, inner, mlp_bias),
            Linear("mlp.up_proj", width, inner, mlp_bias),
            Linear("mlp.down_proj", inner, width, mlp_bias),
        ]
    return Architecture(
        model_type=str(fields["model_type"]),
        num_layers=_size(fields, "num_hidden_layers"),
        width=width,
        head_width=width,
        vocab_size=vocab,
        tied=_flag(fields, "tie_word_embeddings", tied),
        heads=heads,
        kv_heads=groups,
        head_dim=dim,
        mlp_width=inner,
        activation=_text(fields, ("hidden_activation", "hidden_act"), activation),
        gated=True,
        norm=norm,
        norms=norms,
        qk_norm=qk_norm,
        fused_inputs=(3, 2),
        linears=tuple(linears),
        block_vectors=norms * width + (2 * dim if qk_norm else 0),
        embeddings=vocab * width,
        extra=width,
        eager=eager,
        attention_dropout=_share(fields, "attention_dropout", 0.0),
        num_experts=experts,
        experts_per_token=experts_per_token,
        num_positions=_size(fields, "max_position_embeddings", 1 << 30),
    )


def _llama(fields: Fields) -> Architecture:
    bias = _flag(fields, "attention_bias", False)
    mlp_bias = _flag(fields, "mlp_bias", False)
    return _llama_like(fields, qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias)


def _mistral(fields: Fields) -> Architecture:
    return _llama_like(fields, kv_heads=8)


def _mixtral(fields: Fields) -> Architecture:
    experts = _size(fields, "num_local_experts", 8)
    used = _size(fields, "num_experts_per_tok", 2)
    return _llama_like(fields, kv_heads=8, experts=experts, experts_per_token=used)


def _qwen2(fields: Fields) -> Architecture:
    return _llama_like(fields, kv_heads=32, qkv_bias=True, vocab_size=151936)


def _qwen3(fields: Fields) -> Architecture:
    bias = _flag(fields, "attention_bias", False)
    return _llama_like(
        fields,
        head_dim=128,
        kv_heads=32,
        qk_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        vocab_size=151936,
    )


def _gemma(fields: Fields) -> Architecture:
    bias = _flag(fields, "attention_bias", False)
    return _llama_like(
        fields,
        norm="gemma",
        head_dim=256,
        kv_heads=16,
        qkv_bias=bias,
        out_bias=bias,
        tied=True,
        vocab_size=256000,
        activation="gelu_pytorch_tanh",
    )


def _gemma2(fields: Fields) -> Architecture:
    bias = _flag(fields, "attention_bias", False)
    # Its attention caps the scores, which no fused kernel of torch does.
    return _llama_like(
        fields,
        norm="gemma",
        norms=4,
        head_dim=256,
        kv_heads=4,
        qkv_bias=bias,
        out_bias=bias,
        eager=True,
        tied=True,
        vocab_size=256000,
        activation="gelu_pytorch_tanh",
    )


def _gemma3(fields: Fields) -> Architecture:
    bias = _flag(fields, "attention_bias", False)
    return _llama_like(
        fields,
        norm="gemma",
        norms=4,
        head_dim=256,
        kv_heads=4,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        tied=True,
        vocab_size=262208,
        activation="gelu_pytorch_tanh",
    )


def _gpt2(fields: Fields) -> Architecture:
    if fields.get("add_cross_attention"):
        raise _UnknownError("add_cross_attention")
    width, heads = _size(fields, "n_embd"), _size(fields, "n_head")
    inner, vocab = _size(fields, "n_inner", 4 * width), _size(fields, "vocab_size", 50257)
    positions = _size(fields, "n_positions", 1024)
    return Architecture(
        model_type="gpt2",
        num_layers=_size(fields, "n_layer"),
        width=width,
        head_width=width,
        vocab_size=vocab,
        tied=_flag(fields, "tie_word_embeddings", True),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=inner,
        activation=_text(fields, ("activation_function",), "gelu_new"),
        gated=False,
        norm="layer",
        norms=2,
        qk_norm=False,
        fused_inputs=(1, 1),
        linears=(
            Linear("attn.c_attn", width, 3 * width, True),
            Linear("attn.c_proj", width, width, True),
            Linear("mlp.c_fc", width, inner, True),
            Linear("mlp.c_proj", inner, width, True),
        ),
        block_vectors=4 * width,
        embeddings=vocab * width,
        extra=(positions + 2) * width,
        dropout=_share(fields, "resid_pdrop", 0.1),
        attention_dropout=_share(fields, "attn_pdrop", 0.1),
        num_positions=positions,
    )


def _opt(fields: Fields) -> Architecture:
    width, heads = _size(fields, "hidden_size"), _size(fields, "num_attention_heads")
    inner, vocab = _size(fields, "ffn_dim"), _size(fields, "vocab_size", 50272)
    embedded = _size(fields, "word_embed_proj_dim", width)
    positions = _size(fields, "max_position_embeddings", 2048)
    bias = _flag(fields, "enable_bias", True)
    affine = 2 * width if _flag(fields, "layer_norm_elementwise_affine", True) else 0
    before = _flag(fields, "do_layer_norm_before", True)
    final = before and not _flag(fields, "_remove_final_layer_norm", False)
    return Architecture(
        model_type="opt",
        num_layers=_size(fields, "num_hidden_layers"),
        width=width,
        head_width=embedded,
        vocab_size=vocab,
        tied=_flag(fields, "tie_word_embeddings", True),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=inner,
        activation=_text(fields, ("activation_function",), "relu"),
        gated=False,
        norm="layer",
        norms=2,
        qk_norm=False,
        fused_inputs=(3, 1),
        linears=(
            *(Linear(f"self_attn.{name}_proj", width, width, bias) for name in ("k", "v", "q")),
            Linear("self_attn.out_proj", width, width, bias),
            Linear("fc1", width, inner, bias),
            Linear("fc2", inner, width, bias),
        ),
        block_vectors=2 * affine,
        embeddings=vocab * embedded,
        # Two positions more than there are, as in fairseq.
        extra=(positions + 2) * width
        + (affine if final else 0)
        + (0 if embedded == width else 2 * embedded * width),
        dropout=_share(fields, "dropout", 0.1),
        attention_dropout=_share(fields, "attention_dropout", 0.0),
        num_positions=positions,
    )


_FAMILIES: Mapping[str, Callable[[Fields], Architecture]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "opt": _opt,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
