"""What is read from a plain config without torch is what the built model shows."""

import json
from pathlib import Path

import pytest

from distillens_plugin.lens.config_facts import facts_from_config
from distillens_plugin.lens.known_configs import known_facts
from eval_harness.errors import DistillensError

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*/config.json"))
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
    "vocab_size": 7,
}
QWEN2 = {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 1}
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 8,
    "n_head": 2,
    "n_positions": 16,
    "vocab_size": 7,
}
SMALL = (LLAMA, QWEN2, GPT2)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("peft", [False, True])
def test_configs_of_known_models_need_no_torch(file, peft):
    fields = json.loads(file.read_text(encoding="utf-8"))
    facts = known_facts(fields, peft=peft)
    assert facts is not None
    assert facts == facts_from_config(fields, peft=peft)


@pytest.mark.parametrize("fields", SMALL, ids=lambda fields: fields["model_type"])
def test_what_a_config_leaves_out_is_the_models_default(fields):
    plain = {key: value for key, value in fields.items() if key != "vocab_size"}
    assert known_facts(plain) == facts_from_config(plain)
    for tied in (True, False):
        given = {**fields, "tie_word_embeddings": tied}
        assert known_facts(given) == facts_from_config(given)


ODD = (None, True, -1, 0, 1, 3, 6, 7, 2.5, "2", [1], "silu", "gelu_new", "float16", False, 0.5)


@pytest.mark.parametrize("fields", SMALL, ids=lambda fields: fields["model_type"])
def test_an_odd_value_is_left_to_the_model_or_has_its_answer(fields):
    extra = {
        "activation_function": 0,
        "attention_dropout": 0,
        "bos_token_id": 0,
        "dtype": 0,
        "hidden_act": 0,
        "initializer_range": 0,
        "layer_norm_epsilon": 0,
        "n_ctx": 0,
        "num_key_value_heads": 0,
        "pad_token_id": 0,
        "resid_pdrop": 0,
        "rms_norm_eps": 0,
        "rope_scaling": 0,
        "rope_theta": 0,
        "sliding_window": 0,
        "max_window_layers": 0,
        "unheard_of": 0,
    }
    answered = 0
    for key in {**fields, **extra}:
        for value in ODD:
            given = {**fields, key: value}
            facts = known_facts(given)
            if facts is not None:
                answered += 1
                assert facts == facts_from_config(given), (key, value)
    assert answered > 30


def test_what_no_model_can_be_built_from_is_not_answered():
    for fields in (
        {**LLAMA, "hidden_size": 9},
        {**GPT2, "n_head": 3},
        {**LLAMA, "rope_scaling": {"rope_type": "unheard of", "factor": 2.0}},
        {**LLAMA, "pad_token_id": 7},
    ):
        assert known_facts(fields) is None
        with pytest.raises(DistillensError):
            facts_from_config(fields)
