"""Models wrapped before or after the lens is attached: the loss and gradients stay the same."""

import copy

import pytest
import torch
from pair import assert_close, batch, gradients, pair, run_both
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError


def attach(student, teacher, **more):
    options = {"norm": "final", "kd": "fkl", "cross_entropy": 0.5, **more}
    return AttachedLens(student, teacher, {"auto": 2}, **options)


def measured(lens, student, teacher, seed=0):
    ids, labels = batch(seed=seed)
    run_both(student, teacher, ids)
    loss = lens.loss(labels)
    loss.backward()
    return loss.detach(), gradients(student)


@pytest.fixture
def expected():
    student, teacher = pair(dtype=torch.float32)
    return measured(attach(student, teacher), student, teacher)


def with_lora(model, targets):
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("headless", [False, True])
def test_peft_before_or_after(targets, headless):
    found = []
    for before in (True, False):
        student, teacher = pair(dtype=torch.float32, tied=False)
        if before:
            student = with_lora(student, targets)
        lens = attach(student, teacher)
        if not before:
            student = with_lora(student, targets)
        if headless:
            with lens.headless():
                assert student(input_ids=batch()[0]).logits.shape[1] == 0
                found.append(measured(lens, student, teacher))
        else:
            found.append(measured(lens, student, teacher))
    assert found[0][0] == found[1][0]
    assert any("lora_B" in name for name in found[0][1])
    assert any("lm_head" in name for name in found[0][1]) == ("lm_head" in targets)
    assert_close(found[1][1], found[0][1], 0.0)


def test_lora_on_the_head_that_came_after_headless():
    """The head is another module then; the switch follows it."""
    student, teacher = pair(dtype=torch.float32, tied=False)
    lens = attach(student, teacher, headless=True)
    student = with_lora(student, ["q_proj", "lm_head"])
    ids, labels = batch()
    assert student(input_ids=ids).logits.shape[1] == 0
    run_both(student, teacher, ids)
    assert lens.loss(labels).isfinite()


@pytest.mark.parametrize("when", ["before", "after", "after a run", "in place"])
def test_compiled(when, expected):
    student, teacher = pair(dtype=torch.float32)
    called = student
    if when in ("before", "after a run"):
        called = torch.compile(student, backend="aot_eager")
    if when == "after a run":
        called(input_ids=batch(seed=3)[0])
    if when == "in place":
        student.compile(backend="aot_eager")
    lens = attach(called, teacher)
    if when == "after":
        called = torch.compile(student, backend="aot_eager")
    loss, found = measured(lens, called, teacher)
    torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=1e-6)
    named = {name.removeprefix("_orig_mod."): value for name, value in found.items()}
    assert_close(named, expected[1], 1e-5)
    assert measured(lens, called, teacher, seed=4)[0] != loss
    lens.remove()
    with pytest.raises(DistillensError, match=r"hooks were removed"):
        lens.loss(batch()[1])


def checkpoint_blocks(student, form):
    """By transformers, or by torch's wrapper around each block, as accelerate's FSDP sets it."""
    by, reentrant = form
    if by == "transformers":
        student.enable_input_require_grads()
        options = {"use_reentrant": reentrant}
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        assert student.model.gradient_checkpointing
        return
    kind = CheckpointImpl.REENTRANT if reentrant else CheckpointImpl.NO_REENTRANT
    student.enable_input_require_grads()
    student.config.use_cache = False  # a cache would grow again in the backward pass
    apply_activation_checkpointing(
        student,
        checkpoint_wrapper_fn=lambda module: checkpoint_wrapper(module, checkpoint_impl=kind),
        check_fn=lambda module: isinstance(module, LlamaDecoderLayer),
    )


@pytest.mark.parametrize("by", ["transformers", "torch"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("attached_first", [False, True])
def test_gradient_checkpointing(by, reentrant, attached_first, expected):
    """What the backward pass runs again is not recorded again."""
    student, teacher = pair(dtype=torch.float32)
    runs = []
    student.model.layers[1].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    if not attached_first:
        checkpoint_blocks(student, (by, reentrant))
    lens = attach(student, teacher)
    if attached_first:
        checkpoint_blocks(student, (by, reentrant))
    if by == "torch" and reentrant and attached_first:
        # The hooks are inside what runs without a graph: the lens would train nothing below.
        ids, labels = batch()
        run_both(student, teacher, ids)
        with pytest.raises(DistillensError, match=r"is reentrant.*'use_reentrant': False"):
            lens.loss(labels)
        with torch.no_grad():
            run_both(student, teacher, ids)
            assert lens.loss(labels).isfinite()
        return
    runs.clear()
    for _ in range(2):
        loss, found = measured(lens, student, teacher)
        torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=1e-6)
        plain = {name.replace("_checkpoint_wrapped_module.", ""): g for name, g in found.items()}
        assert_close(plain, expected[1], 1e-5)
    assert len(runs) == 4, "each block runs again in the backward pass"
    with pytest.raises(DistillensError, match=r"the student has not run since the last loss"):
        lens.loss(batch()[1])


def test_a_copy_of_the_student_is_not_the_student(expected):
    student, teacher = pair(dtype=torch.float32)
    lens = attach(student, teacher)
    other = copy.deepcopy(student)
    ids, _ = batch()
    run_both(student, teacher, ids)
    other(input_ids=batch(seed=7)[0])
    loss = lens.loss(batch()[1])
    torch.testing.assert_close(loss.detach(), expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_teacher_of_its_own_type(dtype, expected):
    student, teacher = pair(dtype=torch.float32)
    lens = attach(student, teacher.to(dtype))
    loss, found = measured(lens, student, teacher)
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(loss, expected[0], rtol=3e-2, atol=3e-2)


def test_autocast_goes_on_in_the_walk(expected):
    """The matrix products of the walk run in the type that the forward's ran in."""
    student, teacher = pair(dtype=torch.float32)
    lens = attach(student, teacher)
    ids, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_both(student, teacher, ids)
    loss = lens.loss(labels)
    assert loss.dtype == torch.float32
    assert loss.detach() != expected[0]
    torch.testing.assert_close(loss.detach(), expected[0], rtol=3e-2, atol=3e-2)


def test_a_teacher_dispatched_by_a_device_map(tmp_path, expected):
    """accelerate replaces its modules' forward; its parts may lie on several devices."""
    student, teacher = pair(dtype=torch.float32)
    teacher.save_pretrained(tmp_path)
    dispatched = type(teacher).from_pretrained(
        tmp_path, device_map={"": "cpu"}, attn_implementation="eager"
    )
    loss, _ = measured(attach(student, dispatched), student, dispatched)
    torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=1e-6)
