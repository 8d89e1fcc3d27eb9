"""Scale of the logged values, and the share of a batch in a window."""

import pytest
import torch
from pair import batch, pair, run_both

from distillens_plugin import AttachedLens
from distillens_plugin.losses.hidden import HiddenMSE

LAYERS = {"student": [1, 2], "teacher": [2, 4]}


def evaluated(count=None, **options):
    """The loss and the logged values of one batch."""
    student, teacher = pair()
    ids, labels = batch()
    with AttachedLens(student, teacher, **options) as lens:
        run_both(student, teacher, ids)
        return student, lens.loss(labels, count), lens.values


def test_the_square_of_the_temperature_is_in_the_loss_and_in_no_logged_value():
    def at(squared):
        options = {"temperature": 3.0, "scale_by_temperature_squared": squared}
        kd = {"divergence": "rkl", **options}
        return evaluated(layers=LAYERS, lens_weight=0.5, kd=kd, kd_weight=0.25, **options)[1:]

    (plain, values), (scaled, others) = at(False), at(True)
    assert scaled.item() == pytest.approx(9 * plain.item(), rel=1e-12)
    assert set(values) == set(others) == {"lens", "lens/1-2", "lens/2-4", "kd"}
    torch.testing.assert_close(others, values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_a_window_that_counts_nothing_is_zero_for_every_term(count):
    """As with transformers' Trainer, whose count comes from labels that a collator has changed."""
    terms = {"mse": (HiddenMSE(LAYERS, projection="per_pair"), 1.0)}
    for options in ({"layers": LAYERS}, {"kd": "fkl"}, {"cross_entropy": 1.0}, {"terms": terms}):
        student, loss, values = evaluated(count, **options)
        loss.backward()
        assert loss.item() == 0
        assert all(value == 0 for value in values.values())
        assert not any(p.grad.any() for p in student.parameters() if p.grad is not None)
