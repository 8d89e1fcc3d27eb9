"""The lens by the teacher's own readout: values and gradients against float64 written out."""

import pytest
import torch
from lens_readout import (
    LAYERS,
    attached,
    batch,
    copies64,
    divergences64,
    maps64,
    models,
    value_of,
)
from small_models import small_model

from distillens_plugin.attached.attached_lens import AttachedLens
from distillens_plugin.losses.hidden import HiddenMSE
from distillens_plugin.losses.lens import DistillLensLoss
from eval_harness.errors import DistillensError


def close(found, expected, name=""):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize(("student", "teacher"), [("gpt2", "llama"), ("llama", "gpt2")])
@pytest.mark.parametrize("norm", ["identity", "final"])
def test_value_and_gradients_are_those_written_out(student, teacher, norm):
    own, other = models(student, teacher)
    ids, labels = batch()
    lens = attached(own, other, norm=norm, temperature=2.0, pair_weights=[1, 3])
    loss = value_of(lens, own, other, ids, labels)
    loss.backward()
    copies, maps = copies64(own, other), maps64(lens)
    rows = divergences64(copies, maps, ids, labels, teacher=teacher, norm=norm, temperature=2.0)
    expected = (rows.mean(1) * torch.tensor([0.25, 0.75])).sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = lens.trained_parameters()
    assert {name: tuple(p.shape) for name, p in trained.items()} == {
        f"lens.projections.{index}.{part}": shape
        for index in (0, 1)
        for part, shape in (("weight", (48, 32)), ("bias", (48,)))
    }
    for index, pair in enumerate(maps):
        for part, value in zip(("weight", "bias"), pair, strict=True):
            name = f"lens.projections.{index}.{part}"
            close(trained[name].grad, value.grad, name)
    for (name, parameter), copied in zip(
        own.named_parameters(), copies[0].parameters(), strict=True
    ):
        # Blocks above the last layer that is read get zeros, as DDP needs them.
        value = torch.zeros_like(copied) if copied.grad is None else copied.grad
        close(parameter.grad, value, name)
    assert not any(p.grad is not None for p in other.parameters())
    assert all(p.requires_grad for p in other.parameters())


def test_the_students_own_unembedding_is_not_trained():
    own = small_model("llama", width=32, tied=False, seed=1)
    other = small_model("llama", layers=5, width=48, seed=2)
    ids, labels = batch()
    value_of(attached(own, other), own, other, ids, labels).backward()
    assert not own.lm_head.weight.grad.any()
    assert own.model.embed_tokens.weight.grad.any()


def test_equal_models_without_a_map_do_not_differ():
    own, other = (small_model("llama", layers=3, seed=1) for _ in range(2))
    ids, labels = batch()
    same = {"student": [1, 2], "teacher": [1, 2]}
    for norm in ("identity", "final"):
        lens = AttachedLens(own, other, same, norm=norm, readout="teacher", projection="none")
        assert not lens.trained_parameters()
        assert value_of(lens, own, other, ids, labels).item() == pytest.approx(0, abs=1e-6)
        lens.remove()


def test_shared_maps_get_the_sum_of_both_terms_gradients():
    ids, labels = batch()

    def gradients(lens_weight, mse_weight):
        own, other = models()
        terms = {"mse": (HiddenMSE(LAYERS, seed=3), mse_weight)}
        lens = attached(own, other, projection_of="mse", terms=terms, lens_weight=lens_weight)
        assert set(lens.trained_parameters()) == {
            f"mse.projections.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
        }
        value_of(lens, own, other, ids, labels).backward()
        return [p.grad for p in lens.trained_parameters().values()]

    both, lens, mse = gradients(2.0, 0.5), gradients(2.0, 1e-9), gradients(1e-9, 0.5)
    for whole, first, second in zip(both, lens, mse, strict=True):
        assert first.any()
        close(whole, (first + second).double())


def test_maps_train_towards_the_teacher():
    own, other = models()
    ids, labels = batch()
    own.requires_grad_(False)
    lens = attached(own, other, norm="final", projection="shared")
    optimizer = torch.optim.Adam(lens.trained_parameters().values(), lr=0.05)
    values = []
    for _ in range(8):
        loss = value_of(lens, own, other, ids, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_an_all_masked_batch_gives_zero_with_a_graph():
    own, other = models()
    ids, labels = batch()
    for options in ({}, {"weigh_by": "teacher_entropy"}, {"positions": 0.5}):
        lens = attached(own, other, norm="final", min_teacher_entropy=0.1, **options)
        loss = value_of(lens, own, other, ids, torch.full_like(labels, -100))
        loss.backward()
        lens.remove()
        assert loss.item() == 0
        assert not any(p.grad.any() for p in own.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "both"}, "readout = 'both', expected own or teacher"),
        ({"projection": "shared"}, "projection = 'shared' with readout = own"),
        ({"projection_of": "mse"}, "projection_of = 'mse' with readout = own"),
        ({"readout": "teacher", "detach_unembedding": True}, "detach_unembedding with readout"),
        (
            {"readout": "teacher", "projection": "none", "projection_of": "mse"},
            "projection = 'none' beside projection_of = 'mse'",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(DistillensError, match=message):
        DistillLensLoss(LAYERS, **options)


def test_a_term_that_is_not_there_or_has_no_maps_is_refused():
    own, other = models()
    terms = {"plain": (DistillLensLoss(LAYERS), 1.0)}
    for name, message in (("mse", "the terms are lens, plain"), ("plain", "without maps of its")):
        with pytest.raises(DistillensError, match=message):
            attached(own, other, projection_of=name, terms=terms)
    elsewhere = {"mse": (HiddenMSE({"student": [1], "teacher": [2]}), 1.0)}
    with pytest.raises(DistillensError, match="other layer pairs; give both the same layers"):
        attached(own, other, projection_of="mse", terms=elsewhere)
