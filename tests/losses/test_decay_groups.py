"""Weight decay of what the loss trains: never on vectors, also where the student trains none."""

from types import SimpleNamespace

import pytest
import torch
from pair import pair
from peft import LoraConfig, get_peft_model

from distillens_plugin.integrations.torchdistill.optim import adamw, cosine
from distillens_plugin.losses import trained_parameters
from distillens_plugin.losses.hidden import HiddenMSE
from distillens_plugin.losses.trained_parameters import adopt, follow_optimizer, loss_parameters

LAYERS = {"student": [1], "teacher": [2]}


def lora_box(schedule=cosine, make=adamw):
    """A box whose student trains matrices alone, and a loss with a map into the teacher."""
    student, teacher = pair(dtype=torch.float32)
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    student = get_peft_model(student, lora)
    optimizer = make(student, lr=1e-2, weight_decay=0.1)
    return SimpleNamespace(
        criterion=SimpleNamespace(term_dict={"mse": (HiddenMSE(LAYERS), 1.0)}),
        student_model=student,
        teacher_model=teacher,
        optimizer=optimizer,
        lr_scheduler=schedule(optimizer, 4),
    )


def decay_of(optimizer, parameter):
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group["weight_decay"]


def plateau(optimizer, num_steps):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)


def chained(optimizer, num_steps):
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer), cosine(optimizer, num_steps)]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


@pytest.mark.parametrize("schedule", [cosine, plateau, chained])
def test_a_bias_beside_a_lora_student_is_not_decayed_and_follows_the_schedule(schedule):
    box = lora_box(schedule)
    assert len(box.optimizer.param_groups) == 1
    adopt(box)
    adopt(box)
    weight, bias = loss_parameters(box.criterion).values()
    assert decay_of(box.optimizer, weight) == 0.1
    assert decay_of(box.optimizer, bias) == 0
    assert [len(group["params"]) for group in box.optimizer.param_groups][1:] == [1]
    for _ in range(3):
        box.optimizer.step()
        box.lr_scheduler.step(*([1.0] if schedule is plateau else []))
    first, second = (group["lr"] for group in box.optimizer.param_groups)
    assert first == second < 1e-2


def test_a_bias_joins_the_students_own_vectors_as_its_optimizer_decays_them():
    box = lora_box(make=lambda m, **kwargs: torch.optim.AdamW(m.parameters(), **kwargs))
    extra = torch.nn.Parameter(torch.ones(3))
    box.optimizer.param_groups[0]["params"].append(extra)
    adopt(box)
    assert len(box.optimizer.param_groups) == 1


def test_the_same_beside_a_student_in_pieces(monkeypatch):
    monkeypatch.setattr(trained_parameters, "is_in_pieces", lambda model: True)
    box = lora_box()
    adopt(box)
    box.lr_scheduler.step()
    follow_optimizer(box)
    weight, bias = loss_parameters(box.criterion).values()
    assert decay_of(box.loss_optimizer, weight) == 0.1
    assert decay_of(box.loss_optimizer, bias) == 0
    (leader,) = box.optimizer.param_groups
    assert {group["lr"] for group in box.loss_optimizer.param_groups} == {leader["lr"]}
    assert leader["lr"] < 1e-2
