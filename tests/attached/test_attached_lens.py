"""AttachedLens against the losses written out in float64, and against the torchdistill terms."""

import gc
import weakref

import pytest
import torch
from pair import assert_close, batch, gradients, naive, pair, run_both

from distillens_plugin import AttachedLens, DistillLensLoss
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.hooks import layer_to_hook
from distillens_plugin.losses.hidden import HiddenMSE
from eval_harness.errors import DistillensError

PAIRS = [(1, 2), (2, 4)]
LAYERS = {"student": [1, 2], "teacher": [2, 4]}
WEIGHTS = {"lens": 2.0, "kd": 0.5, "cross_entropy": 0.25}


def attach(student, teacher, **more):
    options = {"norm": "final", "lens_weight": 2.0, "kd": "fkl", "kd_weight": 0.5}
    return AttachedLens(student, teacher, LAYERS, **{**options, "cross_entropy": 0.25, **more})


def num_hooks(*models):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for model in models
        for module in model.modules()
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "olmo2"])
@pytest.mark.parametrize("norm", ["identity", "final"])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_values_and_gradients_are_those_written_out(name, norm, tied):
    student, teacher = pair(name, tied=tied)
    ids, labels = batch()
    expected = naive(student, teacher, ids, labels, PAIRS, norm)
    total = sum(WEIGHTS[term] * value for term, value in expected.items())
    total.backward()
    expected_gradients = gradients(student)
    lens = attach(student, teacher, norm=norm)
    run_both(student, teacher, ids)
    loss = lens.loss(labels)
    loss.backward()
    torch.testing.assert_close(loss, total, rtol=1e-12, atol=1e-12)
    assert_close(gradients(student), expected_gradients, 1e-10)
    assert set(lens.values) == {"lens", "lens/1-2", "lens/2-4", "kd", "cross_entropy"}
    for term, value in expected.items():
        torch.testing.assert_close(lens.values[term], value.detach(), rtol=1e-12, atol=1e-12)
    assert not any(value.requires_grad for value in lens.values.values())
    assert not any(p.grad is not None for p in teacher.parameters())


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt_projected", "cohere"])
def test_it_is_the_torchdistill_term_on_distillens_forward(name):
    student, teacher = pair(name)
    ids, labels = batch()
    options = {"norm": "final", "divergence": "jsd", "beta": 0.3, "temperature": 2.0}
    lens = AttachedLens(student, teacher, LAYERS, scale_by_temperature_squared=True, **options)
    run_both(student, teacher, ids)
    loss = lens.loss(labels)
    loss.backward()
    found = gradients(student)
    lens.remove()
    term = DistillLensLoss(LAYERS, scale_by_temperature_squared=True, **options)
    io_dicts = []
    for model, layers in ((student, [1, 2]), (teacher, [2, 4])):
        io_dict = {}
        handles = []
        for layer in layers:
            kind, path = layer_to_hook(layer, forward(model, {"input_ids": ids}).lens.blocks_path)
            assert kind == "output"

            def keep(module, args, output, path=path, io_dict=io_dict):
                io_dict[path] = {"output": output}

            handles.append(model.get_submodule(path).register_forward_hook(keep))
        io_dict["."] = {"output": forward(model, {"input_ids": ids})}
        io_dicts.append(io_dict)
        for handle in handles:
            handle.remove()
    by_torchdistill = term(*io_dicts, labels)
    by_torchdistill.backward()
    torch.testing.assert_close(loss, by_torchdistill, rtol=1e-12, atol=1e-12)
    assert_close(found, gradients(student), 1e-12)


def test_a_window_of_two_batches_is_one_batch():
    student, teacher = pair()
    ids, labels = batch(rows=4)
    lens = attach(student, teacher)
    run_both(student, teacher, ids)
    whole = lens.loss(labels)
    whole.backward()
    expected, values = gradients(student), lens.values
    count = (labels[:, 1:] != -100).sum()
    total, summed = 0.0, dict.fromkeys(values, 0.0)
    for rows in (slice(0, 1), slice(1, 4)):
        run_both(student, teacher, ids[rows])
        loss = lens.loss(labels[rows], num_items_in_batch=count)
        loss.backward()
        total = total + loss.detach()
        summed = {name: summed[name] + value for name, value in lens.values.items()}
    torch.testing.assert_close(total, whole.detach(), rtol=1e-12, atol=1e-12)
    assert_close(summed, values, 1e-12)
    assert_close(gradients(student), expected, 1e-10)


def test_without_a_teacher_it_is_the_models_own_cross_entropy():
    student, _ = pair()
    ids, labels = batch()
    own = student(input_ids=ids, labels=labels).loss
    lens = AttachedLens(student, None, cross_entropy=1.0)
    student(input_ids=ids)
    # transformers computes its own in float32.
    torch.testing.assert_close(lens.loss(labels).float(), own, rtol=1e-6, atol=1e-6)
    for options in ({"kd": "fkl"}, {"layers": {"auto": 1}}, {"terms": {"mse": _mse(1.0)}}):
        with pytest.raises(DistillensError, match=r"teacher is None, but .* reads the teacher"):
            AttachedLens(student, None, **options)


def _mse(weight):
    return HiddenMSE({"student": [1], "teacher": [2]}), weight


def test_further_terms_train_their_own_parameters():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    lens = AttachedLens(student, teacher, kd="jsd", terms={"mse": _mse(0.5)})
    parameters = lens.trained_parameters()
    assert {p.shape for p in parameters.values()} == {(48, 32), (48,)}
    assert all(name.startswith("mse.projections.0.") for name in parameters)
    run_both(student, teacher, ids)
    lens.loss(labels).backward()
    assert all(p.grad.any() for p in parameters.values())
    assert set(lens.values) == {"kd", "mse", "mse/1-2"}


def test_headless_forwards_make_no_logits_and_the_same_loss():
    student, teacher = pair("gpt2")
    ids, labels = batch()
    lens = attach(student, teacher)
    run_both(student, teacher, ids)
    expected = lens.loss(labels)
    expected.backward()
    expected_gradients = gradients(student)
    with lens.headless():
        assert student(input_ids=ids).logits.shape == (3, 0, 64)
        assert teacher(input_ids=ids).logits.shape == (3, 0, 64)
        with pytest.raises(DistillensError, match=r"headless.*call the model without them"):
            student(input_ids=ids, labels=labels)
        run_both(student, teacher, ids)
        loss = lens.loss(labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert_close(gradients(student), expected_gradients, 1e-12)
    assert student(input_ids=ids, labels=labels).logits.shape == (3, 8, 64)
    lens.remove()
    always = attach(student, teacher, headless=True)
    with always.headless():
        pass
    assert student(input_ids=ids).logits.shape == (3, 0, 64)
    always.remove()
    assert student(input_ids=ids).logits.shape == (3, 8, 64)


def test_headless_is_refused_where_a_hook_reads_the_logits():
    student, teacher = pair()
    lens = attach(student, teacher)
    handle = student.lm_head.register_forward_hook(lambda *args: None)
    with (
        pytest.raises(DistillensError, match=r"a hook on 'lm_head' of LlamaForCausalLM reads"),
        lens.headless(),
    ):
        pass
    handle.remove()
    with lens.headless():
        pass


def test_removing_and_dropping_take_the_hooks_off():
    student, teacher = pair()
    attach(student, teacher).remove()
    before = num_hooks(student, teacher)
    lens = attach(student, teacher, headless=True)
    assert num_hooks(student, teacher) > before
    lens.remove()
    lens.remove()
    assert num_hooks(student, teacher) == before
    with attach(student, teacher) as lens:
        run_both(student, teacher, batch()[0])
    assert num_hooks(student, teacher) == before
    with pytest.raises(DistillensError, match=r"its hooks were removed; make a new one"):
        lens.loss(batch()[1])
    dropped = weakref.ref(attach(student, teacher))
    gc.collect()
    assert dropped() is None
    assert num_hooks(student, teacher) == before


def test_two_lenses_on_one_student_do_not_disturb_each_other():
    """Two teachers: each lens is as it is alone."""
    student, teacher = pair()
    _, other = pair("qwen2")
    ids, labels = batch()
    alone = []
    for each in (teacher, other):
        with attach(student, each) as lens:
            run_both(student, each, ids)
            alone.append(lens.loss(labels))
    first, second = attach(student, teacher), attach(student, other, headless=True)
    run_both(student, teacher, ids)
    other(input_ids=ids)
    assert [first.loss(labels).item(), second.loss(labels).item()] == [x.item() for x in alone]
