"""torch's own schedules in a box: kwargs that they read only at a step."""

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from distillens_plugin.integrations.torchdistill.processes import advance
from eval_harness.errors import DistillensError


def step_lr(step_size):
    return StepLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), step_size)


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_schedule_takes_a_step():
    scheduler = step_lr(1)
    advance(scheduler)
    assert scheduler.get_last_lr() == pytest.approx([0.1])


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("step_size", [0, "abc"])
def test_a_schedule_that_cannot_take_a_step_names_its_key(step_size):
    with pytest.raises(DistillensError, match=r"^train\.scheduler\.kwargs: .*; correct them$"):
        advance(step_lr(step_size))
