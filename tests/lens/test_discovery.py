"""Every promised architecture is found by probing, and what is found reproduces the logits."""

import types
from typing import Any

import pytest
import torch
from lens_reference import EVERY, lens_logits, run, with_lora
from peft import IA3Config, LoraConfig, get_peft_model
from small_models import ARCHITECTURES, WITH_HEAD_BIAS, small_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchdistill.core.forward_hook import ForwardHookManager
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
)

from distillens_plugin.lens.discovery import (
    Lens,
    find_anatomy,
    self_check,
    supports_headless,
    unwrap,
)
from distillens_plugin.lens.known_lenses import lens_of
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.causality import reads_later_tokens

BLOCKS = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "codegen": "transformer.h",
    "opt": "model.decoder.layers",
    "opt_projected": "model.decoder.layers",
    "opt_post_norm": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
}
SCALES = {"granite": 1 / 8, "cohere": 0.0625}
SOFTCAPS = {"gemma2": 3.0}


def refusal(model) -> str:
    with pytest.raises(DistillensError) as caught:
        find_anatomy(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "tied"), EVERY)
def test_the_anatomy_of_every_architecture_is_found(name, tied):
    model = small_model(name, layers=3, tied=tied)
    anatomy = find_anatomy(model)
    assert anatomy.blocks == BLOCKS.get(name, "model.layers")
    assert (anatomy.num_layers, anatomy.width, anatomy.vocab_size) == (3, 32, 64)
    assert anatomy.head_width == model.get_output_embeddings().weight.shape[1]
    assert (anatomy.tied, anatomy.bias) == (tied, name in WITH_HEAD_BIAS)
    assert anatomy.scale == SCALES.get(name, 1.0)
    assert anatomy.softcap == SOFTCAPS.get(name)
    assert self_check(model, anatomy) < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_runs_headless(name):
    model = small_model(name)
    assert supports_headless(model)
    anatomy = find_anatomy(model)
    full, hidden = run(model, anatomy.body)
    nothing = torch.empty(0, dtype=torch.long)
    headless, same_hidden = run(model, anatomy.body, logits_to_keep=nothing)
    assert headless.logits.shape == (2, 0, 64)
    # In the graph although empty: DDP sees the head's weight used.
    assert headless.logits.requires_grad
    torch.testing.assert_close(same_hidden, hidden, rtol=0, atol=0)
    torch.testing.assert_close(lens_logits(Lens(model, anatomy), same_hidden), full.logits)


def test_a_model_whose_forward_has_no_logits_to_keep_does_not_run_headless():
    model = small_model("llama")

    class Old(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, use_cache=None):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask)

    model.__class__ = Old
    find_anatomy(model)
    assert not supports_headless(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt_projected", "granite"])
def test_other_types_pass_the_self_check(name, dtype):
    model = small_model(name, dtype=dtype)
    anatomy = find_anatomy(model)
    assert anatomy.dtype == dtype
    assert anatomy.softcap == SOFTCAPS.get(name)
    lens = Lens(model, anatomy)
    assert lens.apply_readout(torch.randn(3, 32, dtype=dtype)).dtype == dtype


def test_a_soft_cap_is_found_where_the_logits_are_too_small_to_show_it():
    model = small_model("gemma2", final_logit_softcapping=30.0, dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    assert run(model)[0].logits.abs().max() < 0.1
    assert find_anatomy(model).softcap == 30.0


def test_a_soft_cap_switched_off_is_not_found():
    assert find_anatomy(small_model("gemma2", final_logit_softcapping=None)).softcap is None


def test_the_probe_leaves_no_trace():
    model = small_model("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    anatomy = find_anatomy(model)
    supports_headless(model)
    self_check(model, anatomy)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_the_probe_cleans_up_after_a_forward_that_fails():
    model = small_model("gpt2").train()

    def fail(self, *args, **kwargs):
        raise RuntimeError("no kernel")

    model.transformer.ln_f.forward = types.MethodType(fail, model.transformer.ln_f)
    message = refusal(model)
    assert "GPT2LMHeadModel: the probe forward" in message
    assert "RuntimeError: no kernel" in message
    assert model.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_torchdistills_hooks_stay_and_work():
    model = small_model("gpt2")
    manager = ForwardHookManager("cpu")
    manager.add_hook(model, "transformer.h.0", requires_input=False)
    manager.add_hook(model, "transformer.ln_f", requires_input=True)
    lens = Lens(model, find_anatomy(model))
    _, hidden = run(model, "transformer.h.0")
    recorded = manager.pop_io_dict()
    torch.testing.assert_close(recorded["transformer.h.0"]["output"], hidden)
    # The lens runs the final norm on other rows; a hook there must not record them.
    lens.apply_readout(torch.randn(3, 32))
    assert manager.io_dict["transformer.ln_f"] == {}


def test_compiled_models_are_probed():
    anatomy = find_anatomy(small_model("llama"))
    compiled: Any = torch.compile(small_model("llama"), backend="eager")
    assert find_anatomy(compiled) == anatomy
    model = small_model("llama")
    model.compile(backend="eager")
    for block in model.model.layers:
        block.compile(backend="eager")
    run(model)
    assert find_anatomy(model) == anatomy


def test_ddp_is_unwrapped(process_group):
    model: Any = small_model("gpt2")
    wrapped = DistributedDataParallel(model)
    assert Lens(wrapped, find_anatomy(wrapped)).head().weight is model.lm_head.weight
    assert unwrap(wrapped) is model
    assert unwrap(DistributedDataParallel(torch.compile(model, backend="eager"))) is model
    assert find_anatomy(wrapped) == find_anatomy(model)
    assert supports_headless(wrapped)


def test_a_model_that_was_sharded_before_is_refused(process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = small_model("gpt2")
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    assert "is sharded by FSDP2 before the lens has seen it" in refusal(model)


def test_accelerates_bfloat16_wrapper_passes_the_self_check():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests have left
    model = Accelerator(mixed_precision="bf16", cpu=True).prepare(small_model("llama"))
    anatomy = find_anatomy(model)
    # Rounded to bfloat16: off by more than float32 would be, and still accepted.
    assert 1e-5 < self_check(model, anatomy) < 5e-2


def test_a_stream_changed_behind_the_last_block_is_refused_with_the_measured_error():
    model = small_model("llama")
    model.model.norm.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    message = refusal(model)
    assert "self-check failed" in message
    error = float(message.split("logits by ")[1].split()[0])
    assert 2e-3 < error < 10
    assert "allowed 0.002 in float32" in message
    assert "readout model.norm, head lm_head" in message


def test_a_head_that_norms_its_input_is_refused():
    model = small_model("llama")

    class Twice(nn.Linear):
        def forward(self, rows):
            return super().forward(nn.functional.layer_norm(rows, rows.shape[-1:]))

    model.lm_head.__class__ = Twice
    assert "self-check failed" in refusal(model)


def test_logits_that_are_more_than_scaled_and_capped_are_refused():
    model = small_model("llama")

    class Shifted(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, use_cache=None):
            output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
            output.logits = output.logits + 1
            return output

    model.__class__ = Shifted
    assert "by more than a scale and a soft-cap" in refusal(model)


def test_a_quantised_head_is_refused():
    model = small_model("llama")
    codes = torch.zeros(64 * 32 // 2, 1, dtype=torch.uint8)
    model.lm_head.weight = nn.Parameter(codes, requires_grad=False)
    message = refusal(model)
    assert "the unembedding Linear has no plain weight matrix (found: (1024, 1) torch.uint8)" in (
        message
    )


def test_models_without_a_language_modelling_head_are_refused():
    config = small_model("gpt2").config
    for model in (
        AutoModel.from_config(config),
        AutoModelForSequenceClassification.from_config(config),
        nn.Linear(2, 2),
    ):
        assert f"{type(model).__name__} has no output embeddings" in refusal(model)


def test_encoders_that_load_as_language_models_are_refused():
    fields = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 64,
        "hidden_act": "gelu",
    }
    for kind in ("bert", "roberta"):
        models = []
        for is_decoder in (False, True):
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind, **fields, is_decoder=is_decoder)
            models.append(AutoModelForCausalLM.from_config(config).eval())
        assert [reads_later_tokens(model) for model in models] == [True, False]
        with pytest.raises(DistillensError):
            find_anatomy(models[0])
    model = small_model("llama")
    # A block that looks ahead.
    model.model.layers[0].register_forward_hook(lambda _, args, output: output + output[:, -1:])
    assert "depend on later tokens" in refusal(model)


def test_blocks_that_do_not_chain_are_refused():
    model = small_model("llama")
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    assert "no list of blocks in which each reads" in refusal(model)
    assert "tried: model.layers" in refusal(model)


def test_a_head_with_another_adapter_than_lora_is_refused_though_it_changes_nothing_yet():
    trained = with_lora(small_model("llama"), target_modules=["lm_head"], use_dora=True)
    assert "DoRA or another variant" in refusal(trained)
    dora = LoraConfig(target_modules=["lm_head"], use_dora=True)
    new = get_peft_model(small_model("llama"), dora)
    assert "DoRA or another variant" in refusal(new)
    config = IA3Config(target_modules=["lm_head"], feedforward_modules=["lm_head"])
    other = get_peft_model(small_model("llama"), config)
    assert "the adapter 'default'" in refusal(other)
    # A lens that was made before: the head is looked at whenever it is read.
    model = small_model("llama")
    lens = lens_of(model)
    get_peft_model(model, dora)
    with pytest.raises(DistillensError, match="expected plain LoRA or none"):
        lens.head()


def test_a_dora_adapter_elsewhere_leaves_the_head_plain():
    config = LoraConfig(target_modules=["q_proj"], use_dora=True)
    model = get_peft_model(small_model("llama"), config)
    assert self_check(model, find_anatomy(model)) < 1e-5
