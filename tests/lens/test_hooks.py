"""Layers as torchdistill's hooks: what they record, with gradient checkpointing and LoRA too."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import ARCHITECTURES, small_model, token_batch
from torch.nn.parallel import DistributedDataParallel
from torchdistill.core.forward_hook import ForwardHookManager

from distillens_plugin.lens.discovery import (
    Lens,
    facts_from_config,
    find_anatomy,
    hidden_states_of,
)
from distillens_plugin.lens.hooks import check_paths, describe_hooks
from distillens_plugin.lens.layers import forward_hook_config, layer_to_hook
from eval_harness.errors import DistillensError


def record(model, layers, *, output_hidden_states=False):
    """torchdistill's record of these layers from one forward pass, and the model's output."""
    blocks = find_anatomy(model).blocks
    hooks = forward_hook_config(layers, blocks)
    manager = ForwardHookManager("cpu")
    for path in dict.fromkeys(hooks["input"] + hooks["output"]):
        manager.add_hook(model, path, path in hooks["input"], path in hooks["output"])
    ids = token_batch()
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
        output_hidden_states=output_hidden_states,
    )
    recorded = manager.pop_io_dict()
    manager.clear()
    found = []
    for layer in layers:
        kind, path = layer_to_hook(layer, blocks)
        found.append(hidden_states_of(recorded[path][kind]))
    return found, output


def test_layers_become_torchdistills_forward_hook():
    assert forward_hook_config([2, 0, 2, "transformer.ln_f", 1], "transformer.h") == {
        "input": ["transformer.h.0"],
        "output": ["transformer.h.1", "transformer.ln_f", "transformer.h.0"],
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooks_record_transformers_hidden_states(name):
    model = small_model(name, layers=3)
    found, output = record(model, [0, 1, 2, 3], output_hidden_states=True)
    for layer in (0, 1, 2):
        assert torch.equal(found[layer], output.hidden_states[layer])
    # The last index differs: transformers has the final norm on it, layer n has not.
    lens = Lens(model, find_anatomy(model))
    assert not torch.equal(found[3], output.hidden_states[3])
    assert torch.equal(lens.apply_readout(found[3]), output.hidden_states[3])


def gradients(model, layers):
    model.train()
    found, output = record(model, layers)
    loss = sum(hidden.square().mean() for hidden in found) + output.logits.square().mean()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooked_layers_carry_the_same_gradients_under_gradient_checkpointing(name):
    model = small_model(name, layers=3)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(m, "gradient_checkpointing", False) for m in checkpointed.modules())
    expected = gradients(model, [0, 1, 3])
    found = gradients(checkpointed, [0, 1, 3])
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_hooks_on_a_peft_model_train_its_lora(name):
    target = "c_attn" if name == "gpt2" else "q_proj"
    model = get_peft_model(
        small_model(name, layers=3),
        LoraConfig(r=4, target_modules=[target], fan_in_fan_out=name == "gpt2"),
    )
    anatomy = find_anatomy(model)
    check_paths(model, [f"{anatomy.blocks}.0", f"{anatomy.blocks}.2"])
    found, _ = record(model, [2])
    found[0].square().mean().backward()
    trained = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    # Layer 2 is two blocks deep: their adapters learn (B first: A's gradient is 0 while B is 0).
    assert len(trained) == 2
    assert all("lora_B" in parameter for parameter in trained)


def test_the_path_for_hooks_is_known_from_the_config_alone():
    for name in ("gpt2", "llama"):
        model = small_model(name)
        assert facts_from_config(model.config).blocks == find_anatomy(model).blocks
        target = "c_attn" if name == "gpt2" else "q_proj"
        wrapped = get_peft_model(
            model, LoraConfig(target_modules=[target], fan_in_fan_out=name == "gpt2")
        )
        assert facts_from_config(model.config, peft=True).blocks == find_anatomy(wrapped).blocks


def refusal(model, path, **more) -> str:
    with pytest.raises(DistillensError) as caught:
        check_paths(model, [path], **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_paths_that_exist_pass():
    check_paths(
        small_model("gpt2"), [".", "transformer.h.0", "transformer.h.2.mlp.c_fc", "lm_head"]
    )


def test_a_path_that_does_not_exist_is_refused_with_the_nearest():
    model = small_model("gpt2")
    message = refusal(model, "transformer.h.3", where="r.yaml: train.student.forward_hook")
    assert message.startswith(
        "r.yaml: train.student.forward_hook: GPT2LMHeadModel has no module 'transformer.h.3' "
        "(transformer.h has 0 to 2); nearest: transformer.h."
    )
    assert "nearest: transformer.ln_f" in refusal(model, "transformer.lnf")
    assert "distillens hooks MODEL lists them" in refusal(model, "??")
    # An attribute that is no module is no path either.
    assert "has no module 'config'" in refusal(model, "config")


def test_a_plain_path_on_a_peft_model_is_told_the_whole_one():
    model = get_peft_model(small_model("llama"), LoraConfig(target_modules=["q_proj"]))
    message = refusal(model, "model.layers.1")
    assert message.endswith("write base_model.model.model.layers.1")


def test_paths_are_checked_inside_ddp(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        check_paths(DistributedDataParallel(small_model("gpt2")), ["transformer.h.1"])
    finally:
        torch.distributed.destroy_process_group()


def test_a_models_hooks_are_described():
    text = describe_hooks(small_model("gemma2", layers=2))
    rows = dict(line.split("  ", 1) for line in text.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows.pop("self-check").startswith("off by ")
    assert rows == {
        "model": "Gemma2ForCausalLM",
        "blocks": "model.layers (2, width 32)",
        "layer 0": "input of model.layers.0",
        "layer 1": "output of model.layers.0",
        "layer 2": "output of model.layers.1",
        "readout": "model.norm (norm)",
        "head": "lm_head (64 x 32, tied with the input embedding, no bias, float32)",
        "logits": "3 * tanh(head / 3)",
        "final hidden states": "output of model",
    }


def test_projections_scales_and_biases_are_described():
    text = describe_hooks(small_model("opt_projected", tied=False))
    assert (
        "model.decoder.final_layer_norm (norm), then model.decoder.project_out (projection)" in text
    )
    assert "lm_head (64 x 16, not tied, no bias, float32)" in text
    assert "none: the head reads" not in text
    assert "0.125 * head" in describe_hooks(small_model("granite"))
    assert "with bias" in describe_hooks(small_model("phi"))


@pytest.mark.parametrize(
    ("name", "num_layers", "width", "vocab_size", "tied", "blocks"),
    [
        ("gpt2", 12, 768, 50257, True, "transformer.h"),
        ("gpt2-medium", 24, 1024, 50257, True, "transformer.h"),
        ("teacher-gpt2-1.5B", 48, 1600, 50257, True, "transformer.h"),
        ("TinyLlama_v1.1", 22, 2048, 32000, False, "model.layers"),
        ("Llama-2-7b-hf", 32, 4096, 32000, False, "model.layers"),
        ("Qwen2.5-1.5B", 28, 1536, 151936, True, "model.layers"),
        ("Qwen2.5-3B", 36, 2048, 151936, True, "model.layers"),
        ("Qwen2.5-1.5B-Instruct", 28, 1536, 151936, True, "model.layers"),
        ("Qwen2.5-3B-Instruct", 36, 2048, 151936, True, "model.layers"),
        ("SmolLM2-135M-Instruct", 30, 576, 49152, True, "model.layers"),
    ],
)
def test_facts_of_the_real_models(repo, name, num_layers, width, vocab_size, tied, blocks):
    config = json.loads((repo / "tests/configs" / name / "config.json").read_text())
    facts = facts_from_config(config)
    assert (facts.num_layers, facts.width, facts.vocab_size) == (num_layers, width, vocab_size)
    assert (facts.tied, facts.blocks) == (tied, blocks)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_facts_from_a_config_are_those_of_the_model(name):
    model = small_model(name, layers=4)
    anatomy = find_anatomy(model)
    facts = facts_from_config(model.config)
    assert (facts.num_layers, facts.blocks) == (anatomy.num_layers, anatomy.blocks)
    assert (facts.width, facts.vocab_size) == (anatomy.width, anatomy.vocab_size)
    assert facts.tied == anatomy.tied


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_layer": 2}, "has no model_type"),
        ({"model_type": "gpt2x"}, "did you mean 'gpt2'"),
        ({"model_type": "gpt2", "n_embd": 10, "n_head": 3}, "must be divisible by num_heads"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "vit"}, "no causal language model can be built from this 'vit' config"),
    ],
)
def test_configs_that_make_no_model_are_refused(config, message):
    with pytest.raises(DistillensError, match=message) as caught:
        facts_from_config(config)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
