"""A teacher of which only the readout is loaded is the whole teacher to a lens."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import small_model, token_batch
from transformers import AutoModelForCausalLM, MixtralConfig

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.models.loading import load_teacher, num_parameters
from distillens_plugin.models.states_only import is_states_only, load_readout
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError, RunFailure


def reads_alike(spec):
    """Loads both; the readout's lens must be the whole teacher's."""
    readout, whole = load_readout(spec), load_teacher(spec)
    alone, lens = lens_of(readout.model), lens_of(whole)
    assert alone.anatomy == lens.anatomy
    rows = torch.randn(5, lens.anatomy.width, generator=torch.Generator().manual_seed(0))
    for norm in ("identity", "final"):
        assert torch.equal(
            alone.apply_readout(rows, norm=norm), lens.apply_readout(rows, norm=norm)
        )
    assert torch.equal(alone.head().weight, lens.head().weight)
    assert readout.model.config.num_hidden_layers == whole.config.num_hidden_layers
    assert not any(parameter.requires_grad for parameter in readout.model.parameters())
    assert readout.num_parameters < readout.all_parameters == num_parameters(whole)
    return readout, whole


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("gpt2", True),
        ("llama", False),
        ("llama", True),
        ("gemma2", True),
        ("opt_projected", True),
        ("opt_post_norm", True),
    ],
)
def test_readout_and_head_are_those_of_the_whole_teacher(tmp_path, name, tied):
    small_model(name, tied=tied).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    readout, whole = reads_alike(TeacherSpec(name_or_path=str(tmp_path)))
    assert is_states_only(readout.model)
    assert not is_states_only(whole)


def test_a_mixture_of_experts_loses_its_experts(tmp_path):
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    readout, _ = reads_alike(TeacherSpec(name_or_path=str(tmp_path)))
    # Untied: the head, the final norm, and one row of the embedding.
    assert readout.num_parameters == 64 * 32 + 32 + 32


@pytest.mark.parametrize(
    ("modules", "saved", "tied"),
    [
        (["q_proj", "v_proj"], None, True),
        (["q_proj", "lm_head"], None, True),
        (["q_proj", "lm_head"], None, False),
        (["q_proj", "embed_tokens"], None, True),
        (["q_proj"], ["lm_head"], True),
    ],
)
def test_an_adapter_counts_as_far_as_it_concerns_the_head(tmp_path, modules, saved, tied):
    base = small_model("llama", tied=tied)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=modules, modules_to_save=saved, task_type="CAUSAL_LM")
    adapted = get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter")
    spec = TeacherSpec(name_or_path=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    _, whole = reads_alike(spec)
    changed = not torch.equal(lens_of(whole).head().weight, base.lm_head.weight)
    assert changed == ("lm_head" in modules or saved is not None)


def test_its_blocks_cannot_run(tmp_path):
    small_model("llama").save_pretrained(tmp_path)
    readout = load_readout(TeacherSpec(name_or_path=str(tmp_path)))
    with pytest.raises(RunFailure, match=r"blocks were not loaded .* set teacher_cache\.teacher"):
        readout.model(token_batch())
    assert "parameters" in readout.describe()


def test_damaged_weights_are_refused_as_for_the_whole_teacher(tmp_path):
    small_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DistillensError, match=r"models\.teacher_model\.name_or_path: cannot load"):
        load_readout(TeacherSpec(name_or_path=str(tmp_path)))
