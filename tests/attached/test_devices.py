"""A student on a GPU with a teacher that stays on the CPU."""

import pytest
import torch
from pair import assert_close, batch, gradients, pair, run_both

from distillens_plugin import AttachedLens
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.losses.hidden import HiddenMSE

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


def measured(student, teacher, device):
    ids, labels = batch()
    mse = HiddenMSE({"student": [1], "teacher": [2]}, seed=3)
    lens = AttachedLens(
        student, teacher, {"auto": 2}, norm="final", kd="fkl", terms={"mse": (mse, 0.1)}
    )
    student(input_ids=ids.to(device))
    with torch.no_grad():
        teacher(input_ids=ids)
    loss = lens.loss(labels)
    loss.backward()
    found = {name: gradient.cpu() for name, gradient in gradients(student).items()}
    return loss.detach().cpu(), found


@cuda
def test_a_teacher_on_another_device():
    expected = measured(*pair(), "cpu")
    student, teacher = pair()
    loss, found = measured(student.cuda(), teacher, "cuda")
    # The hidden states are compared in float32, whatever the models' type.
    torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=1e-6)
    assert_close(found, expected[1], 1e-5)


def test_a_copy_of_the_teachers_head_is_renewed_when_it_changed():
    """On the meta device, which is another device everywhere."""
    student, teacher = pair()
    lens = AttachedLens(student, teacher, {"auto": 2})
    run_both(student, teacher, batch()[0])
    meta = torch.device("meta")
    head = lens_of(teacher).head_on(meta)
    assert head.weight.device == meta
    assert lens_of(teacher).head_on(meta) is head
    with torch.no_grad():
        teacher.lm_head.weight.add_(1)
    assert lens_of(teacher).head_on(meta) is not head
    lens.remove()
