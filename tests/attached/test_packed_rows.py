"""Rows laid end to end: as the rows by themselves, or refused where they would see each other."""

import pytest
import torch
from pair import assert_close, batch, gradients, pair, run_both

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError


def packed(ids, labels):
    labels = labels.clone()
    labels[:, 0] = -100  # a row's first token follows none of its own
    rows, tokens = ids.shape
    positions = torch.arange(tokens).repeat(rows)[None]
    return ids.reshape(1, -1), labels.reshape(1, -1), positions


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_rows_are_the_rows_by_themselves(name):
    student, teacher = pair(name)
    ids, labels = batch()
    lens = AttachedLens(student, teacher, {"auto": 2}, norm="final", kd="fkl", cross_entropy=1.0)
    run_both(student, teacher, ids)
    expected = lens.loss(labels)
    expected.backward()
    expected_gradients = gradients(student)
    row, row_labels, positions = packed(ids, labels)
    with lens.headless():
        student(input_ids=row, position_ids=positions, use_cache=False)
        with torch.no_grad():
            teacher(input_ids=row, position_ids=positions, use_cache=False)
    loss = lens.loss(row_labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradients(student), expected_gradients, 1e-9)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_with_a_cache_they_see_each_other(role):
    """Why it is refused: other states, without a word from transformers."""
    student, teacher = pair()
    row, labels, positions = packed(*batch())
    lens = AttachedLens(student, teacher, {"auto": 2})
    for model in (student, teacher):
        use_cache = None if model is (student if role == "student" else teacher) else False
        model(input_ids=row, position_ids=positions, use_cache=use_cache)
    with pytest.raises(DistillensError, match=rf"the {role} ran on packed rows.*use_cache=False"):
        lens.loss(labels)
    apart, together = (
        student(input_ids=row, position_ids=positions, use_cache=cache).logits
        for cache in (False, True)
    )
    assert (apart - together).abs().max() > 1e-2


def test_positions_that_do_not_restart_may_have_a_cache():
    student, teacher = pair()
    ids, labels = batch()
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    lens = AttachedLens(student, teacher, {"auto": 2})
    student(input_ids=ids, position_ids=positions)
    teacher(input_ids=ids, position_ids=positions)
    assert lens.loss(labels).isfinite()
