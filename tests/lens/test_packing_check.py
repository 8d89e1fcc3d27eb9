"""Models that mix packed rows are refused by running them, and rounding refuses no other."""

import pytest
import torch
from small_models import small_model
from transformers import AutoConfig, AutoModelForCausalLM

from distillens_plugin.lens.packing_check import check_packing
from eval_harness.errors import DistillensError

# OPT reads positions and rows off the attention mask, which packs do not have.
OPTS = ("opt", "opt_projected", "opt_post_norm")
SPECIAL = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# transformers' model types with what makes each of them small.
OTHERS = {
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "mixtral": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full_attn_idxs": [1],
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
}


def other_model(model_type, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**SPECIAL, **OTHERS[model_type]})
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("model_type", ["falcon", "gpt_neo", "mixtral"])
def test_alibi_local_attention_and_experts_keep_rows_apart(model_type):
    check_packing(other_model(model_type), role="student", where="here")


@pytest.mark.parametrize("model_type", ["mamba", "lfm2", "bloom", "xglm"])
def test_states_that_go_on_and_masks_that_are_built_otherwise_are_refused(model_type):
    model = other_model(model_type)
    with pytest.raises(DistillensError, match=f"a {type(model).__name__}, lets a packed row see"):
        check_packing(model, role="student", where="here")


@pytest.mark.parametrize("name", OPTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opt_is_refused_by_name(name, dtype):
    model = small_model(name, dtype=dtype)
    message = r"^here: the teacher, a OPTForCausalLM, lets a packed row see the row before it \(its"
    with pytest.raises(DistillensError, match=message):
        check_packing(model, role="teacher", where="here")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_rounding_in_half_precision_is_no_reason_to_refuse(name, dtype):
    check_packing(small_model(name, dtype=dtype), role="student", where="here")


def test_rounding_under_autocast_is_no_reason_to_refuse():
    with torch.autocast("cpu", torch.bfloat16):
        check_packing(small_model("llama"), role="student", where="here")


def test_a_model_that_takes_no_positions_is_refused():
    model = small_model("gpt2")
    forward = type(model).forward

    class Stubborn(type(model)):
        def forward(self, input_ids, attention_mask=None, use_cache=None, logits_to_keep=0):
            return forward(self, input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model.__class__ = Stubborn
    with pytest.raises(DistillensError, match=r"a Stubborn, does not run on packed rows \(Type"):
        check_packing(model, role="student", where="here")


def test_a_model_that_keeps_rows_apart_but_counts_on_is_refused():
    model = small_model("gpt2")
    forward = type(model).forward

    class CountsOn(type(model)):
        def forward(self, input_ids, attention_mask=None, position_ids=None, **kwargs):
            if position_ids is not None:
                row_BT = (position_ids == 0).cumsum(-1)
                same_BTT = row_BT[:, :, None] == row_BT[:, None, :]
                attention_mask = torch.zeros(same_BTT.shape).masked_fill(~same_BTT.tril(), -1e30)
                attention_mask = attention_mask[:, None]
            return forward(self, input_ids, attention_mask=attention_mask, **kwargs)

    model.__class__ = CountsOn
    with pytest.raises(DistillensError, match="a CountsOn, does not restart positions"):
        check_packing(model, role="student", where="here")


def test_the_check_leaves_the_model_as_it_was():
    model = small_model("gpt2").train()
    model.transformer.h[0].eval()
    state = torch.get_rng_state()
    check_packing(model, role="student", where="here")
    assert model.training
    assert not model.transformer.h[0].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
