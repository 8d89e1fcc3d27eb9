"""A mixture of experts keeps its auxiliary loss, on every path to the loss."""

import pytest
import torch
from pair import assert_close, batch, gradients
from transformers import AutoConfig, AutoModelForCausalLM

from distillens_plugin import AttachedLens, CrossEntropy
from distillens_plugin.lens.forward import forward
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.router import RouterLoss
from distillens_plugin.losses.term import WeightedTerm, evaluate

EXPERTS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}
COEFFICIENT = 0.1


def mixture(model_type, seed=0):
    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        num_hidden_layers=3,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        router_aux_loss_coef=COEFFICIENT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **EXPERTS[model_type],
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def own_loss(model, ids, labels):
    output = model(input_ids=ids, labels=labels, output_router_logits=True)
    output.loss.backward()
    return output.loss.detach(), output.aux_loss.detach(), gradients(model)


@pytest.mark.parametrize("model_type", EXPERTS)
def test_attached(model_type):
    model = mixture(model_type)
    ids, labels = batch()
    loss, router_loss, expected = own_loss(model, ids, labels)
    assert any("gate" in name for name in expected)
    lens = AttachedLens(model, None, cross_entropy=1.0, router_loss=COEFFICIENT)
    with lens.headless():
        model(input_ids=ids)
        found = lens.loss(labels)
    found.backward()
    torch.testing.assert_close(found.detach(), loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lens.values["router_loss"], router_loss)
    assert_close(gradients(model), expected, 1e-5)
    assert not model.config.output_router_logits  # it is saved with the model
    lens.remove()
    assert not model(input_ids=ids).router_logits


@pytest.mark.parametrize("model_type", EXPERTS)
def test_as_a_torchdistill_term(model_type):
    model = mixture(model_type)
    ids, labels = batch()
    loss, _, expected = own_loss(model, ids, labels)
    output = forward(model, {"input_ids": ids})
    terms = {
        "cross_entropy": WeightedTerm(CrossEntropy(), 1.0),
        "router_loss": WeightedTerm(RouterLoss(), COEFFICIENT),
    }
    for weighted in terms.values():
        weighted.term.prepare(model, None)
    result = evaluate(terms, Reading({".": {"output": output}}, {}, labels), chunk_rows=None)
    result.loss.backward()
    torch.testing.assert_close(result.loss.detach(), loss, rtol=1e-6, atol=1e-6)
    assert_close(gradients(model), expected, 1e-5)


def test_in_a_window_it_counts_by_supervised_tokens():
    """As every term with a value of its own: the window's sum is a mean weighted by tokens."""
    model = mixture("mixtral")
    ids, labels = batch(rows=4)
    lens = AttachedLens(model, None, cross_entropy=1.0, router_loss=1.0)
    count = int((labels[:, 1:] != -100).sum())
    expected, summed = 0.0, 0.0
    for rows in (slice(0, 1), slice(1, 4)):
        model(input_ids=ids[rows])
        alone = lens.loss(labels[rows])
        assert alone.isfinite()
        share = int((labels[rows, 1:] != -100).sum()) / count
        expected += share * lens.values["router_loss"]
        model(input_ids=ids[rows])
        lens.loss(labels[rows], num_items_in_batch=count)
        summed += lens.values["router_loss"]
    torch.testing.assert_close(summed, expected)
