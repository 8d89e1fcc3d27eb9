"""What AttachedLens refuses before a model runs, and forward passes that could not learn."""

import pytest
import torch
from pair import batch, pair
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

LAYERS = {"auto": 2}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"kd": "fkl", "temperature": 2.0}, r"temperature = 2.0 is for the lens, but layers is N"),
        ({"kd": "fkl", "alpha": 0.1}, r"alpha = 0.1 is for the lens, but layers is None"),
        ({"kd": "fkl", "detach_unembedding": True}, r"detach_unembedding = True is for the lens"),
        ({"layers": LAYERS, "kd_weight": 5.0}, r"kd_weight = 5.0, but kd is not given; name its"),
        ({"kd": "fkl", "lens_weight": 9.0}, r"AttachedLens: lens_weight = 9.0, but layers are n"),
        ({"kd": ["fkl"]}, r"kd = \['fkl'\], expected a divergence such as 'fkl'"),
        ({"layers": LAYERS, "chunk_rows": 0}, r"chunk_rows = 0, expected a whole number >= 1"),
        ({"kd": "fkl", "chunk_rows": "8"}, r"chunk_rows = '8', expected a whole number >= 1"),
        ({"kd": "fkl", "terms": ["a"]}, r"terms is of type list, expected a mapping"),
        ({"kd": "fkl", "terms": {"a": 3}}, r"terms\['a'\] = 3, expected a loss term"),
        ({"kd": "fkl", "terms": {"a": (3, 1.0)}}, r"terms\['a'\] = \(3, 1.0\), expected a loss t"),
    ],
)
def test_arguments(given, found):
    with pytest.raises(DistillensError, match=found):
        AttachedLens(*pair(), **given)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_what_is_no_model(role):
    models = dict(zip(("student", "teacher"), pair(), strict=True))
    with pytest.raises(DistillensError, match=rf"the {role} is of type str, expected a model"):
        AttachedLens(**{**models, role: "gpt2"}, layers=LAYERS)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens(kind):
    student, teacher = pair(dtype=torch.float32)
    student = get_peft_model(student, kind(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(DistillensError, match=rf"the student has {kind.__name__} of peft, whose v"):
        AttachedLens(student, teacher, LAYERS)


@pytest.mark.parametrize("count", ["3", float("inf"), float("nan"), -1, True, torch.ones(2)])
def test_num_items_in_batch(count):
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    with AttachedLens(student, teacher, LAYERS) as lens:
        student(input_ids=ids)
        teacher(input_ids=ids)
        with pytest.raises(DistillensError, match=r"num_items_in_batch = .*expected a number of s"):
            lens.loss(labels, count)


def test_a_student_that_ran_without_gradients():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    with AttachedLens(student, teacher, LAYERS) as lens:
        with torch.no_grad():
            student(input_ids=ids)
            teacher(input_ids=ids)
        with pytest.raises(DistillensError, match=r"the student ran without gradients"):
            lens.loss(labels)
        with torch.no_grad():
            assert not lens.loss(labels).requires_grad
