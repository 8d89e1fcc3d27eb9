"""The lens gives the model's own logits and gradients, and leaves norms out when told to."""

import dataclasses

import pytest
import torch
from lens_reference import EVERY, lens_logits, run, with_lora
from small_models import small_model

from distillens_plugin.lens.discovery import Lens, find_anatomy


@pytest.mark.parametrize(("name", "tied"), EVERY)
def test_the_bodys_hidden_states_through_the_head_are_the_logits(name, tied):
    model = small_model(name, tied=tied)
    anatomy = find_anatomy(model)
    output, hidden = run(model, anatomy.body)
    logits = lens_logits(Lens(model, anatomy), hidden)
    torch.testing.assert_close(logits, output.logits)


@pytest.mark.parametrize(("name", "tied"), EVERY)
def test_the_last_block_through_readout_and_head_is_the_logits(name, tied):
    model = small_model(name, tied=tied)
    lens = Lens(model, find_anatomy(model))
    output, hidden = run(model, f"{lens.blocks_path}.{lens.num_layers - 1}")
    rows = lens.apply_readout(hidden.flatten(0, 1), norm="final")
    assert rows.shape == (14, lens.read_width)
    torch.testing.assert_close(lens_logits(lens, rows), output.logits.flatten(0, 1))


def test_identity_leaves_out_norms_and_keeps_projections():
    hidden = torch.randn(5, 32)
    for name in ("opt_projected", "opt_post_norm"):
        model = small_model(name)
        lens = Lens(model, find_anatomy(model))
        projected = model.model.decoder.project_out(hidden)
        torch.testing.assert_close(lens.apply_readout(hidden, norm="identity"), projected)
    model = small_model("llama")
    lens = Lens(model, find_anatomy(model))
    assert torch.equal(lens.apply_readout(hidden, norm="identity"), hidden)
    assert torch.equal(lens.apply_readout(hidden), model.model.norm(hidden))
    with pytest.raises(ValueError, match="'identity' or 'final', found 'none'"):
        lens.apply_readout(hidden, norm="none")


def test_a_norm_in_float32_takes_a_bfloat16_stream():
    model = small_model("gpt2")
    lens = Lens(model, find_anatomy(model))
    assert lens.apply_readout(torch.randn(3, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_lens_trains_as_the_model_does(model):
    """The loss on the model's own logits and on the lens at its last block: equal gradients."""
    anatomy = find_anatomy(model)
    output, _ = run(model)
    output.logits.square().mean().backward()
    expected = gradients(model)
    lens = Lens(model, anatomy)
    blocks = lens.blocks_path.removeprefix("base_model.model.")
    _, hidden = run(model, f"{blocks}.{lens.num_layers - 1}")
    lens_logits(lens, lens.apply_readout(hidden)).square().mean().backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    return expected


@pytest.mark.parametrize(("name", "tied"), EVERY)
def test_gradients_through_the_lens_are_the_models_own(name, tied):
    model = small_model(name, tied=tied)
    gradient = assert_lens_trains_as_the_model_does(model)
    embedding = next(n for n, p in model.named_parameters() if p.shape[0] == 64)
    assert gradient[embedding].abs().max() > 0


def test_lora_on_the_blocks_changes_nothing_but_the_path_for_hooks():
    plain = find_anatomy(small_model("gpt2"))
    model = with_lora(small_model("gpt2"), target_modules=["c_attn"], fan_in_fan_out=True)
    expected = dataclasses.replace(plain, blocks="base_model.model.transformer.h")
    assert find_anatomy(model) == expected
    gradient = assert_lens_trains_as_the_model_does(model)
    assert gradient
    assert all("lora_" in name for name in gradient)


@pytest.mark.parametrize("bias", [False, True])
def test_lora_on_the_head_is_merged_and_trains(bias):
    model = with_lora(small_model("phi"), target_modules=["q_proj", "lm_head"], lora_bias=bias)
    anatomy = find_anatomy(model)
    head = Lens(model, anatomy).head()
    layer = model.lm_head
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(head.weight, layer.base_layer.weight + 4.0 * product)
    assert any("lm_head.lora_A" in n for n in assert_lens_trains_as_the_model_does(model))
    with model.disable_adapter():
        assert torch.equal(Lens(model, anatomy).head().weight, layer.base_layer.weight)
    model.merge_adapter()
    merged = Lens(model, anatomy).head()
    torch.testing.assert_close(merged.weight, head.weight)
    torch.testing.assert_close(merged.bias, head.bias)


def test_lora_on_a_projection_in_the_readout_trains():
    model = with_lora(small_model("opt_projected"), target_modules=["q_proj", "project_out"])
    assert find_anatomy(model).readout == find_anatomy(small_model("opt_projected")).readout
    assert any("project_out.lora_B" in n for n in assert_lens_trains_as_the_model_does(model))


def test_a_head_that_peft_trains_in_full_is_the_one_read():
    model = with_lora(
        small_model("llama"), target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]
    )
    assert any("modules_to_save" in n for n in assert_lens_trains_as_the_model_does(model))
