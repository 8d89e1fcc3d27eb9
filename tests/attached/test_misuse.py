"""Calls of AttachedLens out of order, and batches that do not belong together."""

import pytest
import torch
from pair import batch, pair, run_both

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

LAYERS = {"auto": 2}


@pytest.fixture
def models():
    return pair(dtype=torch.float32)


@pytest.fixture
def lens(models):
    with AttachedLens(*models, LAYERS) as lens:
        yield lens


@pytest.mark.parametrize("missing", ["both", "student", "teacher"])
def test_loss_before_the_forwards(models, lens, missing):
    student, teacher = models
    ids, labels = batch()
    if missing == "teacher":
        student(input_ids=ids)
    if missing == "student":
        teacher(input_ids=ids)
    named = "student" if missing == "both" else missing
    with pytest.raises(DistillensError, match=rf"the {named} has not run since the lens was att"):
        lens.loss(labels)


def test_loss_twice_for_one_forward(models, lens):
    ids, labels = batch()
    run_both(*models, ids)
    lens.loss(labels)
    with pytest.raises(DistillensError, match=r"the student has not run since the last loss"):
        lens.loss(labels)
    run_both(*models, ids)
    lens.loss(labels)


def test_a_refused_batch_can_be_corrected(models, lens):
    ids, labels = batch()
    run_both(*models, ids)
    with pytest.raises(DistillensError, match=r"labels have shape \[3, 7\], but the student ran "):
        lens.loss(labels[:, 1:])
    assert lens.loss(labels).isfinite()


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (None, "the labels are NoneType"),
        ([[1, 2]], "the labels are list"),
        (torch.zeros(8, dtype=torch.int64), r"the labels are shape \[8\] of int64"),
        (torch.zeros(3, 8), r"the labels are shape \[3, 8\] of float32"),
    ],
)
def test_what_is_no_labels(models, lens, labels, found):
    run_both(*models, batch()[0])
    with pytest.raises(DistillensError, match=found + r", expected \[B, T\] token ids"):
        lens.loss(labels)


def test_labels_of_another_batch(models, lens):
    ids, _ = batch()
    run_both(*models, ids)
    _, others = batch(seed=5)
    with pytest.raises(DistillensError, match=r"row 0, position \d: the label is \d+, but the stu"):
        lens.loss(others)


def test_shifted_labels(models, lens):
    ids, labels = batch()
    run_both(*models, ids)
    with pytest.raises(DistillensError, match=r"labels are not shifted"):
        lens.loss(labels.roll(-1, 1))


def test_the_two_models_on_other_batches(models, lens):
    student, teacher = models
    ids, labels = batch()
    student(input_ids=ids)
    teacher(input_ids=batch(seed=5)[0])
    with pytest.raises(DistillensError, match=r"row 0, position 0: the student ran on token \d+ a"):
        lens.loss(labels)
    teacher(input_ids=ids[:, :5])
    with pytest.raises(DistillensError, match=r"the student ran on \[3, 8\] and the teacher on"):
        lens.loss(labels)


def test_embeddings_in_place_of_ids_are_compared_by_shape(models, lens):
    student, teacher = models
    ids, labels = batch()
    run_both(student, teacher, ids)
    expected = lens.loss(labels)
    student(inputs_embeds=student.get_input_embeddings()(ids))
    with torch.no_grad():
        teacher(inputs_embeds=teacher.get_input_embeddings()(ids))
    torch.testing.assert_close(lens.loss(labels), expected)
    student(inputs_embeds=student.get_input_embeddings()(ids))
    teacher(inputs_embeds=teacher.get_input_embeddings()(ids))
    with pytest.raises(DistillensError, match=r"the labels have shape \[3, 7\]"):
        lens.loss(labels[:, 1:])


def test_without_gradients_it_is_the_same_value(models, lens):
    ids, labels = batch()
    run_both(*models, ids)
    expected = lens.loss(labels)
    with torch.no_grad():
        run_both(*models, ids)
        value = lens.loss(labels)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())


def test_a_teacher_that_ran_with_gradients_gets_none(models):
    student, teacher = models
    teacher.requires_grad_(True)
    ids, labels = batch()
    with AttachedLens(student, teacher, LAYERS, kd="fkl") as lens:
        student(input_ids=ids)
        teacher(input_ids=ids)
        lens.loss(labels).backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("count", [None, 12])
def test_nothing_supervised_is_zero_with_a_graph(models, count):
    student, teacher = models
    ids, labels = batch()
    lens = AttachedLens(student, teacher, LAYERS, kd="fkl", cross_entropy=1.0)
    run_both(student, teacher, ids)
    loss = lens.loss(torch.full_like(labels, -100), num_items_in_batch=count)
    loss.backward()
    assert loss.item() == 0
    assert set(lens.values) == {"lens", "lens/1-2", "lens/2-3", "kd", "cross_entropy"}
    assert all(value == 0 for value in lens.values.values())
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_the_last_token_alone_in_a_row_is_no_position(models, lens):
    """Its label is at position 0, which nothing predicts."""
    ids, labels = batch()
    labels[:] = -100
    labels[:, 0] = ids[:, 0]
    run_both(*models, ids)
    assert lens.loss(labels).item() == 0


def test_a_teacher_left_in_train_mode_drops_nothing_out():
    student, teacher = pair("gpt2", dtype=torch.float32, resid_pdrop=0.5, embd_pdrop=0.5)
    student.eval()
    ids, labels = batch()
    losses = []
    with AttachedLens(student, teacher, LAYERS) as lens:
        for mode in (False, True):
            teacher.train(mode)
            run_both(student, teacher, ids)
            losses.append(lens.loss(labels).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"there is no loss term; give layers, kd, cross_entropy or terms"),
        ({"layers": {"auto": 2}, "lens_weight": 0.0}, r"there is no loss term"),
        ({"layers": {"auto": 9}}, r"layers.auto = 9, but the student has 3 blocks"),
        ({"layers": {"student": [4], "teacher": [1]}}, r"but the student has layers 0 to 3"),
        ({"layers": {"auto": 1}, "norm": "layer"}, r"AttachedLens: norm: found 'layer', expected"),
        ({"layers": {"auto": 1}, "temperature": 0.0}, r"temperature: found 0.0, expected"),
        ({"layers": {"auto": 1}, "gamma": 1.0}, r"AttachedLens: gamma: unknown key"),
        ({"layers": {"auto": 1}, "divergence": "fkl", "beta": 0.5}, r"fkl does not read this key"),
        ({"kd": "kl"}, r"AttachedLens: kd: divergence: found 'kl', expected one of jsd, fkl, rkl"),
        ({"kd": {"divergence": "fkl", "temp": 2}}, r"AttachedLens: kd: temp: unknown key"),
        ({"kd": "fkl", "kd_weight": -1.0}, r"kd_weight = -1.0, expected a number >= 0"),
        ({"kd": "fkl", "kd_weight": "auto"}, r"'auto', .*; only distillens run measures it"),
        ({"cross_entropy": True}, r"cross_entropy = True, expected a number >= 0"),
        ({"router_loss": 0.01}, r"the student LlamaForCausalLM computes no router loss"),
    ],
)
def test_arguments_that_do_not_fit(models, arguments, message):
    with pytest.raises(DistillensError, match=message):
        AttachedLens(*models, **arguments)


def test_one_model_cannot_be_both(models):
    with pytest.raises(DistillensError, match=r"student and teacher are one object"):
        AttachedLens(models[0], models[0], LAYERS)


def test_a_bad_count(models, lens):
    ids, labels = batch()
    run_both(*models, ids)
    with pytest.raises(DistillensError, match=r"num_items_in_batch = -1, expected a number"):
        lens.loss(labels, num_items_in_batch=-1)
