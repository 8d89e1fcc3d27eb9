"""Copies of hooked models, and what is saved of them."""

import copy
import pickle

import pytest
import torch
from pair import batch, pair, run_both

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

LAYERS = {"auto": 2}


def test_a_copy_made_between_forward_and_loss_leaves_the_lens_alone():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    with AttachedLens(student, teacher, LAYERS) as lens:
        run_both(student, teacher, ids)
        expected = lens.loss(labels).item()
        run_both(student, teacher, ids)
        copied = copy.deepcopy(student)  # an average of weights over time begins so
        copied(input_ids=ids.flip(0))
        assert lens.loss(labels).item() == expected


def test_the_copy_of_a_headless_model_has_its_head():
    student, teacher = pair(dtype=torch.float32)
    ids, _ = batch()
    lens = AttachedLens(student, teacher, LAYERS, headless=True)
    copied = copy.deepcopy(student)
    assert copied(input_ids=ids).logits.shape[1] == ids.shape[1]
    assert student(input_ids=ids).logits.shape[1] == 0
    lens.remove()
    copied(input_ids=ids)
    assert student(input_ids=ids).logits.shape[1] == ids.shape[1]


def test_a_hooked_model_is_not_pickled():
    student, teacher = pair(dtype=torch.float32)
    lens = AttachedLens(student, teacher, LAYERS)
    with pytest.raises(DistillensError, match=r"has hooks of AttachedLens.*call remove\(\)"):
        pickle.dumps(student)
    lens.remove()
    pickle.dumps(student)


def test_a_headless_model_generates():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    expected = student.generate(ids, max_new_tokens=3, do_sample=False)
    with AttachedLens(student, teacher, LAYERS, headless=True) as lens:
        found = student.generate(ids, max_new_tokens=3, do_sample=False)
        assert found.tolist() == expected.tolist()
        run_both(student, teacher, ids)
        assert student(input_ids=ids).logits.shape[1] == 0
        assert lens.loss(labels).isfinite()
