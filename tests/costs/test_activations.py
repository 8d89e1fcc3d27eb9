"""What autograd keeps, as counted from a config, and what saved_tensors_hooks see it keep."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillens_plugin.costs.activations import Adapters, Shape, block_bytes, whole_bytes
from distillens_plugin.costs.families import known_architecture
from distillens_plugin.costs.precision import precision

WIDTH, ROWS, LENGTH = 64, 2, 128
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 160,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "head_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
IDS = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 97}
GPT2 = {"n_embd": WIDTH, "n_inner": 160, "n_head": 8, "n_positions": LENGTH, **IDS}
OPT = {
    "hidden_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "ffn_dim": 160,
    "num_attention_heads": 8,
    "max_position_embeddings": LENGTH,
    **IDS,
}
DRY = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CASES = {
    **dict.fromkeys(("llama", "mixtral", "qwen2", "qwen3", "gemma", "gemma2"), LLAMA),
    "gemma3_text": LLAMA,
    "gpt2": {**GPT2, **DRY},
    "gpt2 with dropout": GPT2,
    "opt": OPT,
}
TYPES = {
    "float32": ("float32", "no"),
    "autocast": ("float32", "bf16"),
    "bfloat16": ("bfloat16", "no"),
}


def fields_of(case, layers):
    name = case.split()[0]
    return {
        "model_type": name,
        "n_layer" if name == "gpt2" else "num_hidden_layers": layers,
        **CASES[case],
    }


def kept_bytes(fields, dtype, mixed_precision, *, padded=False, checkpointing=False, lora=None):
    """Bytes of all storages that autograd keeps of the body's forward pass, without weights."""
    settings = dict(fields)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    body = model.base_model
    if lora is not None:
        import peft

        wanted = peft.LoraConfig(r=lora.rank, lora_dropout=lora.dropout, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, wanted)
        body = model.base_model.model.base_model
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.randint(0, 97, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, LENGTH // 2 :] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision != "no"),
    ):
        body(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(kept.values())


def copies(model, at):
    """Autocast's copies of a block's weights, which `shardings` counts with the weights."""
    return sum(2 * linear.parameters for linear in model.modules()) if at.casts else 0


def last_state(at):
    """The body's output, which the losses keep and autograd does not."""
    return WIDTH * at.stream


# On a CPU, autocast leaves Mixtral's experts in a mixture of both types.
COUNTED = [
    (case, types, padded)
    for case in CASES
    for types in TYPES
    for padded in (False, True)
    if (case, types) != ("mixtral", "autocast")
    and (not padded or case in ("llama", "gemma2", "gpt2"))
]


@pytest.mark.parametrize(("case", "types", "padded"), COUNTED)
def test_a_block_keeps_what_is_counted(case, types, padded):
    dtype, mixed_precision = TYPES[types]
    two, three = (
        kept_bytes(fields_of(case, layers), dtype, mixed_precision, padded=padded)
        for layers in (2, 3)
    )
    model = known_architecture(fields_of(case, 3))
    at, shape = precision(dtype, mixed_precision, "cpu"), Shape(ROWS, LENGTH, padded, 0)
    counted = shape.tokens * block_bytes(model, at, shape, None) + copies(model, at)
    # Vectors, cosines and masks that do not grow with the batch are left out.
    assert counted == pytest.approx(three - two, rel=0.03)
    whole = shape.tokens * whole_bytes(model, at, shape, None, checkpointing=False)
    whole += 3 * copies(model, at) - shape.tokens * last_state(at)
    assert whole == pytest.approx(three, rel=0.03)


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_with_checkpointing_only_the_blocks_inputs_stay(case):
    fields = fields_of(case, 4)
    kept = kept_bytes(fields, "float32", "no", checkpointing=True)
    at, shape = precision("float32", "no", "cpu"), Shape(ROWS, LENGTH, False, 0)
    model = known_architecture(fields)
    counted = shape.tokens * whole_bytes(model, at, shape, None, checkpointing=True)
    assert counted - shape.tokens * last_state(at) == pytest.approx(kept, rel=0.03)
    plain = shape.tokens * whole_bytes(model, at, shape, None, checkpointing=False)
    assert counted < plain / 3


@pytest.mark.parametrize("types", ["float32", "autocast"])
@pytest.mark.parametrize("case", ["llama", "qwen2", "gpt2"])
def test_with_lora_frozen_matrices_keep_no_input(case, types):
    targets = ["attn.c_attn"] if case == "gpt2" else ["self_attn.q_proj", "self_attn.v_proj"]
    adapters = Adapters(4, frozenset(targets), 0.1)
    dtype, mixed_precision = TYPES[types]
    two, three = (
        kept_bytes(fields_of(case, layers), dtype, mixed_precision, lora=adapters)
        for layers in (3, 4)
    )
    model = known_architecture(fields_of(case, 3))
    at, shape = precision(dtype, mixed_precision, "cpu"), Shape(ROWS, LENGTH, False, 0)
    counted = shape.tokens * block_bytes(model, at, shape, adapters) + copies(model, at)
    assert counted == pytest.approx(three - two, rel=0.08)
    assert counted < shape.tokens * block_bytes(model, at, shape, None) + copies(model, at)
