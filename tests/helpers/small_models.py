"""Small random causal language models from configs: every architecture we promise, no network.

    small_model("gpt2", layers=3, width=32, vocab=64, tied=False)

The special ids lie inside the vocabulary, so that transformers has nothing to warn about, and the
weights are drawn wide enough that logits differ between tokens (a head that is off by a norm or a
scale then shows).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

HEADS = 4


def _llama_like(layers: int, width: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": width // HEADS,
        "max_position_embeddings": 128,
    }


def _gpt2_like(layers: int, width: int) -> dict[str, Any]:
    return {
        "n_layer": layers,
        "n_embd": width,
        "n_head": HEADS,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _gptj_like(layers: int, width: int) -> dict[str, Any]:
    return {**_gpt2_like(layers, width), "rotary_dim": width // HEADS}


def _opt_like(layers: int, width: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 2 * width,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 128,
        "dropout": 0.0,
    }


def _opt_projected(layers: int, width: int) -> dict[str, Any]:
    return {**_opt_like(layers, width), "word_embed_proj_dim": width // 2}


def _opt_post_norm(layers: int, width: int) -> dict[str, Any]:
    """As opt-350m: norms after the blocks' halves, a projection, and no norm before the head."""
    return {**_opt_projected(layers, width), "do_layer_norm_before": False}


def _neox_like(layers: int, width: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 128,
    }


def _gemma2(layers: int, width: int) -> dict[str, Any]:
    return {
        **_llama_like(layers, width),
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": width // HEADS,
        "sliding_window": 64,
    }


def _granite(layers: int, width: int) -> dict[str, Any]:
    return {**_llama_like(layers, width), "logits_scaling": 8.0, "embedding_multiplier": 12.0}


# name -> (transformers' model_type, config without vocabulary and special ids)
FAMILIES: dict[str, tuple[str, Callable[[int, int], dict[str, Any]]]] = {
    "gpt2": ("gpt2", _gpt2_like),
    "llama": ("llama", _llama_like),
    "qwen2": ("qwen2", _llama_like),
    "qwen3": ("qwen3", _llama_like),
    "mistral": ("mistral", _llama_like),
    "gemma2": ("gemma2", _gemma2),
    "opt": ("opt", _opt_like),
    "opt_projected": ("opt", _opt_projected),
    "opt_post_norm": ("opt", _opt_post_norm),
    "gpt_neox": ("gpt_neox", _neox_like),
    "phi3": ("phi3", _llama_like),
    "granite": ("granite", _granite),
    "olmo2": ("olmo2", _llama_like),
    # Not promised by name, kept for what they have: a head with a bias, a parallel residual, a
    # logit scale that multiplies.
    "gptj": ("gptj", _gptj_like),
    "codegen": ("codegen", _gptj_like),
    "phi": ("phi", _neox_like),
    "cohere": ("cohere", _llama_like),
}

WITH_HEAD_BIAS = ("gptj", "codegen", "phi")
ARCHITECTURES = tuple(FAMILIES)


def small_config(
    name: str,
    *,
    layers: int = 3,
    width: int = 32,
    vocab: int = 64,
    tied: bool | None = None,
    **more,
) -> Any:
    """A transformers config; `more` overrides fields, `tied=None` keeps the family's default."""
    model_type, fields = FAMILIES[name]
    config: dict[str, Any] = {
        **fields(layers, width),
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if tied is not None:
        config["tie_word_embeddings"] = tied
    return AutoConfig.for_model(model_type, **{**config, **more})


def small_model(
    name: str,
    *,
    layers: int = 3,
    width: int = 32,
    vocab: int = 64,
    tied: bool | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **more,
) -> Any:
    """A random model in eval mode, without dropout; the caller's random state stays as it was.

    Args:
        name: one of ARCHITECTURES.
        width: a multiple of 8.
        more: single config fields.
    """
    config = small_config(name, layers=layers, width=width, vocab=vocab, tied=tied, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        _widen(model)
    return model.to(dtype).eval()


def _widen(model: nn.Module) -> None:
    """Draws weights and biases from wider distributions than transformers' 0.02, norms included."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        else:
            # Gain 1 would make a doubled norm invisible (normalising twice changes nothing).
            parameter.data.mul_(1 + 0.3 * torch.randn_like(parameter))
            parameter.data.add_(0.1 * torch.randn_like(parameter))


def token_batch(vocab: int = 64, *, batch: int = 2, tokens: int = 7, seed: int = 0) -> torch.Tensor:
    """Random ids [batch, tokens] above the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (batch, tokens), generator=generator)
