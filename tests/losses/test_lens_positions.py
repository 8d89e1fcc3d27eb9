"""Fewer positions, or those where the teacher is unsure: estimates without bias, exact weights."""

import itertools

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
    run_both,
    streams64,
    value_of,
)

from distillens_plugin.attached.attached_lens import AttachedLens
from eval_harness.errors import DistillensError


def entropies64(teacher, ids, labels):
    log_p = streams64(teacher, ids, labels)[1].log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def small_batch(supervised=3):
    ids, labels = batch(rows=1)
    labels[:] = -100
    labels[0, 2 : 2 + supervised] = ids[0, 2 : 2 + supervised]
    return ids, labels


@pytest.mark.parametrize("options", [{}, {"weigh_by": "teacher_entropy"}])
def test_the_mean_over_all_draws_is_the_whole(monkeypatch, options):
    own, other = models()
    ids, labels = small_batch()
    whole = value_of(attached(own, other, **options), own, other, ids, labels)
    whole.backward()
    expected = {name: p.grad.clone() for name, p in own.named_parameters()}
    own.zero_grad()
    lens = attached(own, other, positions=0.6, **options)
    drawn, values = list(itertools.permutations(range(3))), set()
    draws = iter(drawn)
    monkeypatch.setattr(torch, "randperm", lambda count: torch.tensor(next(draws)))
    total = torch.zeros(())
    for _ in drawn:
        loss = value_of(lens, own, other, ids, labels) / len(drawn)
        loss.backward()
        total = total + loss.detach()
        values.add(round(loss.item(), 6))
    assert len(values) == 3  # two positions of three
    torch.testing.assert_close(total, whole.detach())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_draw_comes_from_torchs_generator_and_at_least_one_position_is_drawn():
    own, other = models()
    ids, labels = batch()
    lens = attached(own, other, positions=0.3)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(value_of(lens, own, other, ids, labels).item())
    assert values[0] == values[1] != values[2]
    tiny = attached(own, other, positions=1e-6)
    assert value_of(tiny, own, other, ids, labels).item() > 0


def test_without_gradients_all_positions_are_compared_and_nothing_is_drawn():
    own, other = models()
    ids, labels = batch()
    lenses = attached(own, other, positions=0.2), attached(own, other)
    before = torch.random.get_rng_state()
    run_both(own, other, ids)
    with torch.no_grad():
        share, whole = (lens.loss(labels) for lens in lenses)
    assert share.equal(whole)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("readout", ["own", "teacher"])
def test_the_teachers_entropy_chooses_and_weighs(readout):
    own, other = models("llama", "llama", vocab=64)
    ids, labels = batch()
    entropies = entropies64(copies64(other)[0], ids, labels).detach()
    # A threshold between two of them.
    least = float(entropies.sort().values[5:7].mean())
    found = {}
    for name, options in {
        "rows": {},
        "above": {"min_teacher_entropy": least},
        "weighed": {"weigh_by": "teacher_entropy"},
        "both": {"min_teacher_entropy": least, "weigh_by": "teacher_entropy"},
    }.items():
        lens = AttachedLens(own, other, LAYERS, readout=readout, **options)
        found[name] = value_of(lens, own, other, ids, labels).item()
        if readout == "teacher":
            rows = divergences64(copies64(own, other), maps64(lens), ids, labels).mean(0)
        lens.remove()
    if readout == "own":
        rows = own_rows64(*copies64(own, other), ids, labels)
    above = (entropies >= least).double()
    assert 0 < above.sum() < len(above)
    assert found["rows"] == pytest.approx(rows.mean().item(), rel=1e-4)
    assert found["above"] == pytest.approx((rows * above).mean().item(), rel=1e-4)
    assert found["weighed"] == pytest.approx((rows * entropies).mean().item(), rel=1e-4)
    assert found["both"] == pytest.approx((rows * above * entropies).mean().item(), rel=1e-4)


def own_rows64(student, teacher, ids, labels):
    """[N] mean over the pairs of the JSD through each model's own head."""
    ours, theirs = (streams64(model, ids, labels)[0] for model in (student, teacher))
    found = []
    for a, b in zip(*LAYERS.values(), strict=True):
        p, q = (teacher.lm_head(theirs[b]).softmax(-1), student.lm_head(ours[a]).softmax(-1))
        m = (p + q) / 2
        found.append((p * (p / m).log() + q * (q / m).log()).sum(-1) / 2)
    return torch.stack(found).mean(0)


def test_a_window_of_batches_sums_to_the_whole():
    own, other = models()
    ids, labels = batch(rows=4)
    count = int((labels[:, 1:] != -100).sum())
    options = {"min_teacher_entropy": 1.0, "weigh_by": "teacher_entropy"}
    lens = attached(own, other, **options)
    whole = value_of(lens, own, other, ids, labels)
    parts = [
        value_of(lens, own, other, ids[rows], labels[rows], count)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_no_position_above_the_least_entropy_is_zero_with_a_graph():
    own, other = models()
    ids, labels = batch()
    lens = attached(own, other, min_teacher_entropy=50.0, positions=0.5, norm="final")
    loss = value_of(lens, own, other, ids, labels)
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in own.parameters())
    assert not any(p.grad.any() for p in lens.trained_parameters().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": 0.0}, "positions"),
        ({"positions": 1.5}, "positions"),
        ({"min_teacher_entropy": -1.0}, "min_teacher_entropy"),
        ({"weigh_by": "student"}, "weigh_by"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    own, other = models()
    with pytest.raises(DistillensError, match=f"AttachedLens: {message}"):
        AttachedLens(own, other, LAYERS, **options)
