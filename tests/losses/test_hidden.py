"""Hidden-state terms against float64 formulas: values, gradients, geometry, weights of pairs."""

import pytest
import torch
from boxes import build_box
from hidden_box import box_recipe, rows_of

from distillens_plugin.losses.similarity import CKA, GramAlignment, inner
from eval_harness.errors import DistillensError


def mse64(x, y):
    return ((x - y) ** 2).sum() / x.numel()


def cosine64(x, y):
    dots = (x * y).sum(1) / (x.pow(2).sum(1).sqrt() * y.pow(2).sum(1).sqrt())
    return (1 - dots).sum() / len(x)


def gram64(x, y):
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            left = x[i] @ x[j] / (x[i].norm() * x[j].norm())
            right = y[i] @ y[j] / (y[i].norm() * y[j].norm())
            total += (left - right) ** 2
    return total / len(x) ** 2


def cka64(x, y):
    """Through the centring matrix and HSIC: tr(K H L H)."""
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    left, right = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return 1 - (left * right).sum() / ((left**2).sum() * (right**2).sum()).sqrt()


@pytest.mark.parametrize("criterion", ["WeightedSumLoss", "distillens.weighted_sum"])
@pytest.mark.parametrize(
    ("term", "formula"),
    [
        ("distillens.hidden_mse", mse64),
        ("distillens.hidden_cosine", cosine64),
        ("distillens.gram", gram64),
        ("distillens.cka", cka64),
    ],
)
def test_a_term_in_a_plain_box_is_the_float64_formula(tmp_path, term, formula, criterion):
    box = build_box(box_recipe(tmp_path, term, criterion))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    module = box.criterion.term_dict["hidden"][0]
    expected = torch.zeros((), dtype=torch.float64)
    for index, (x, y) in enumerate(rows_of(box, batch, targets)):
        if hasattr(module, "projections"):
            layer = module.projections[index]
            x = x @ layer.weight.double().T + layer.bias.double()
        expected += formula(x, y) / 2
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert set(module.last_values) == {f"{module.default_name}/1-2", f"{module.default_name}/2-4"}
    loss.backward()
    # What no layer of the term reaches still has a gradient, as DDP needs it: zeros.
    assert all(p.grad is not None for p in box.student_model.parameters())
    assert box.student_model.transformer.h[0].mlp.c_fc.weight.grad.any()


@pytest.mark.parametrize("make", [GramAlignment, CKA])
def test_no_geometry_differs_after_rotation_scaling_and_between_equal_models(make):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    term = make({"auto": 1})
    assert term.compare(0, x, 3 * x @ rotation).item() == pytest.approx(0, abs=1e-5)
    other = torch.randn(40, 12, generator=generator)
    assert term.compare(0, x, other) > 0.01


@pytest.mark.parametrize("make", [GramAlignment, CKA])
@pytest.mark.parametrize("num_rows", [5, 30])
def test_gradients_are_those_of_finite_differences(make, num_rows):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(num_rows, 9, generator=generator, dtype=torch.float64)
    term = make({"auto": 1})
    # CKA's scaling is detached: a true gradient only if the scale really drops out.
    assert torch.autograd.gradcheck(lambda rows: term.compare(0, rows, y), (x,))


def test_both_ways_of_summing_products_of_gram_matrices_agree():
    x, y = torch.randn(7, 5).double(), torch.randn(7, 20).double()
    direct = ((x @ x.T) * (y @ y.T)).sum()
    assert inner(x, y).item() == pytest.approx(direct.item())
    assert inner(x[:2], y[:2]).item() == pytest.approx((x[:2].T @ y[:2]).square().sum().item())


def test_a_single_position_and_equal_positions_have_no_geometry():
    for rows in (1, 4):
        x = torch.ones(rows, 3).requires_grad_()
        value = CKA({"auto": 1}).compare(0, x, torch.randn(rows, 5))
        assert value.item() == 0
        value.backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("term", ["distillens.hidden_mse", "distillens.cka"])
def test_an_all_masked_batch_gives_zero_with_a_graph(tmp_path, term):
    box = build_box(box_recipe(tmp_path, term))
    box.pre_epoch_process(epoch=0)
    batch, _ = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, torch.full_like(batch["input_ids"], -100))
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in box.student_model.parameters())


def test_pair_weights_weigh(tmp_path):
    box = build_box(box_recipe(tmp_path, pair_weights=[1, 3]))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    first, second = box.criterion.term_dict["hidden"][0].last_values.values()
    assert loss.item() == pytest.approx(0.5 * (0.25 * first + 0.75 * second).item())
    wrong = build_box(box_recipe(tmp_path, pair_weights=[1]))
    wrong.pre_epoch_process(epoch=0)
    with pytest.raises(DistillensError, match=r"pair_weights = \[1\], expected 2"):
        wrong.forward_process(batch, targets)
