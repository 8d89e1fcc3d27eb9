"""Parameters from config.json alone are those of the model that transformers builds."""

import json
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from distillens_plugin.costs.counted import counted_architecture
from distillens_plugin.costs.families import known_architecture
from distillens_plugin.lens.config_facts import read_config
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.shapes import empty_model

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*/config.json"))
LLAMA = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
WITHOUT_GROUPS = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
OPT = {
    "model_type": "opt",
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "ffn_dim": 80,
    "num_attention_heads": 6,
    "word_embed_proj_dim": 48,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_layer": 3, "n_embd": 48, "n_head": 6, "vocab_size": 97}
LIKE_LLAMA = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
)
SMALL = [
    *({"model_type": name, **LLAMA} for name in LIKE_LLAMA),
    *({"model_type": name, **LLAMA, "tie_word_embeddings": True} for name in LIKE_LLAMA),
    *({"model_type": name, **LLAMA, "head_dim": 16} for name in LIKE_LLAMA),
    *({"model_type": name, **WITHOUT_GROUPS, "num_attention_heads": 8} for name in LIKE_LLAMA),
    *({"model_type": name, **LLAMA, "num_key_value_heads": None} for name in ("llama", "qwen2")),
    {"model_type": "llama", **LLAMA, "attention_bias": True, "mlp_bias": True},
    {"model_type": "qwen3", **LLAMA, "attention_bias": True},
    {"model_type": "gemma", **LLAMA, "attention_bias": True},
    {"model_type": "mixtral", **LLAMA, "num_local_experts": 4, "num_experts_per_tok": 3},
    GPT2,
    {**GPT2, "tie_word_embeddings": False, "n_inner": 64, "n_positions": 32},
    OPT,
    {**OPT, "word_embed_proj_dim": 24},
    {**OPT, "word_embed_proj_dim": 24, "do_layer_norm_before": False},
    {**OPT, "enable_bias": False, "_remove_final_layer_norm": True},
    {**OPT, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False},
]


def built(fields):
    model = empty_model(read_config(fields))
    model.tie_weights()
    return model


def number(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.parent.name)
def test_of_real_models(file):
    fields = json.loads(file.read_text(encoding="utf-8"))
    found = known_architecture(fields)
    assert found.num_parameters == number(built(fields))


@pytest.mark.parametrize("fields", SMALL, ids=lambda fields: fields["model_type"])
def test_of_every_known_architecture(fields):
    found, model = known_architecture(fields), built(fields)
    assert found.num_parameters == number(model)
    assert found.head_parameters == model.get_output_embeddings().weight.numel()
    # Module by module, as LoRA adapts them.
    for linear in found.modules():
        (module,) = [m for name, m in model.named_modules() if name.endswith(f"0.{linear.path}")]
        assert {linear.inputs, linear.outputs} == set(module.weight.shape)
    counted = counted_architecture(fields)
    assert counted.num_parameters == found.num_parameters
    assert counted.block_parameters == found.block_parameters
    assert counted.tail_parameters == found.tail_parameters


@pytest.mark.parametrize("name", [*LIKE_LLAMA, "gpt2", "opt"])
def test_what_a_config_leaves_out_is_the_classs_default_or_the_model_is_asked(name):
    full = CONFIG_MAPPING[name](vocab_size=97).to_dict()
    plain = {"model_type": name}
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
        if key in full:
            plain[key] = {"num_hidden_layers": 2, "intermediate_size": 64}.get(key, full[key])
    for key in ("n_layer", "n_embd", "n_head", "ffn_dim"):
        if key in full:
            plain[key] = {"n_layer": 2, "ffn_dim": 64}.get(key, full[key])
    found = known_architecture(plain)
    if found is not None:
        assert found.num_parameters == number(built(plain))
    assert known_architecture({"model_type": name}) is None


def test_an_architecture_without_a_formula_is_counted_on_the_empty_model():
    fields = {
        "model_type": "gpt_neox",
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_attention_heads": 6,
        "vocab_size": 97,
    }
    assert known_architecture(fields) is None
    found = counted_architecture(fields)
    assert found.num_parameters == number(built(fields))
    assert (found.num_layers, found.mlp_width, found.is_known) == (3, 80, False)
    assert any(linear.path == "attention.query_key_value" for linear in found.modules())


def test_a_model_without_attention_is_refused_in_one_line(tmp_path):
    """Its config, as transformers writes it, holds an infinity, which JSON lacks."""
    sizes = {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "num_hidden_layers": 2}
    CONFIG_MAPPING["mamba2"](**sizes, n_groups=1, vocab_size=97).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert fields["time_step_limit"][1] == {"__float__": "Infinity"}
    with pytest.raises(DistillensError) as caught:
        counted_architecture(fields)
    assert "model_type = 'mamba2': its config has no num_attention_heads" in str(caught.value)
    assert "\n" not in str(caught.value)
    config = read_config(fields)
    assert config.time_step_limit[1] == float("inf")
    nested = {**fields, "time_step_limit": [{"__float__": "-Infinity"}, 1.0]}
    assert read_config(nested).time_step_limit[0] == -float("inf")
