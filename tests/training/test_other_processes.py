"""Which numbers of processes a run can be resumed with."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler

from distillens_plugin.storage.kept_state import Standing
from distillens_plugin.storage.random_states import random_states, restore_or_seed
from distillens_plugin.training.other_processes import for_processes, told
from eval_harness.errors import DistillensError


def standing(num_processes, *, batches_taken=0):
    return Standing(
        step=0,
        epoch=0,
        history={},
        averages={},
        progress={},
        seconds=0.0,
        loss_before=None,
        share=None,
        num_processes=num_processes,
        recipe="",
        fingerprint={},
        batches_taken=batches_taken,
    )


def recipe(accumulates, **train_data):
    optimizer = {"grad_accum_step": accumulates}
    return {"datasets": {"train": train_data}, "train": {"optimizer": optimizer}}


def going_on(before, now, num_processes, *, kept=2, **more):
    return for_processes(
        standing(kept, **more), before, now, num_processes=num_processes, folder=Path("out")
    )


def test_the_place_within_an_epoch_is_that_of_the_same_step():
    found = going_on(recipe(6), recipe(3), 4, batches_taken=12)
    assert found.batches_taken == 6
    assert going_on(recipe(6), recipe(12), 1, batches_taken=12).batches_taken == 24


@pytest.mark.parametrize(
    ("before", "now", "num_processes", "remedy"),
    [
        (2, 2, 4, "found 4 x 2; set train.optimizer.grad_accum_step: 1"),
        (3, 1, 3, "found 3 x 1; set train.optimizer.grad_accum_step: 2"),
        (1, 1, 3, "found 3 x 1; expected 1 x 2 or 2 x 1"),
    ],
)
def test_steps_with_other_batches_are_refused_with_what_would_do(
    before, now, num_processes, remedy
):
    with pytest.raises(DistillensError) as refusal:
        going_on(recipe(before), recipe(now), num_processes)
    assert remedy in str(refusal.value)


def test_a_stream_keeps_its_processes():
    with pytest.raises(DistillensError, match="its own share of a stream; launch 2"):
        going_on(recipe(2, streaming=True), recipe(1, streaming=True), 4)


def experiment(num_rows, *, num_processes, accumulates, drop_last=False):
    """Batches of two rows, dealt by accelerate."""
    sampler = BatchSampler(SequentialSampler(range(num_rows)), 2, drop_last)
    dealt = BatchSamplerShard(sampler, num_processes, 0)
    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=num_processes, even_batches=True),
        box=SimpleNamespace(
            train_data_loader=SimpleNamespace(batch_sampler=dealt), grad_accum_step=accumulates
        ),
        steps_per_epoch=-(-len(dealt) // accumulates),
    )


def windows(num_rows, num_processes, accumulates):
    """The rows of each step, over all processes."""
    sampler = BatchSampler(SequentialSampler(range(num_rows)), 2, False)
    shards = [list(BatchSamplerShard(sampler, num_processes, p)) for p in range(num_processes)]
    return [
        sorted(row for shard in shards for batch in shard[i : i + accumulates] for row in batch)
        for i in range(0, len(shards[0]), accumulates)
    ]


@pytest.mark.parametrize("num_rows", range(8, 40))
def test_a_line_tells_of_other_rows_in_the_last_step_exactly_where_there_are(num_rows):
    before, now = windows(num_rows, 2, 2), windows(num_rows, 4, 1)
    assert before[:-1] == now[:-1]
    assert len(before) == len(now)
    lines = told(experiment(num_rows, num_processes=4, accumulates=1), standing(2))
    assert any("the last step of an epoch" in line for line in lines) is (before[-1] != now[-1])


def test_another_number_of_steps_is_refused():
    # Of 9 whole batches, 2 processes take 8 and 4 take 8; of 11, they take 10 and 8.
    few = experiment(18, num_processes=4, accumulates=1, drop_last=True)
    assert len(told(few, standing(2))) == 1
    more = experiment(22, num_processes=4, accumulates=1, drop_last=True)
    with pytest.raises(DistillensError, match="2 processes had 3 steps an epoch, 4 have 2"):
        told(more, standing(2))


def test_a_new_process_draws_numbers_of_its_own():
    drawn = []
    for process in range(4):
        torch.manual_seed(process)
        drawn.append(random_states())
    numbers = []
    for process in range(4):
        restore_or_seed(drawn[:2], process=process, seed=1)
        numbers.append(torch.rand(2).tolist())
    for process in range(2):
        torch.manual_seed(process)
        assert torch.rand(2).tolist() == numbers[process]
    assert len({tuple(each) for each in numbers}) == 4
