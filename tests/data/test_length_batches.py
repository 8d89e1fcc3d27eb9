"""Length-grouped batches hold every row once, pad little, and follow seed and epoch alone."""

import random
from collections.abc import Sequence

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from distillens_plugin.data.length_batches import LengthGroupedBatchSampler
from eval_harness.errors import DistillensError


class Rows(Dataset):
    """Rows of random lengths between 10 and 500."""

    def __init__(self, num_rows: int) -> None:
        rng = random.Random(3)
        self.lengths = [rng.randint(10, 500) for _ in range(num_rows)]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> int:
        return index


def sampler(num_rows: int = 1000, batch_size: int = 16, **options) -> LengthGroupedBatchSampler:
    return LengthGroupedBatchSampler(SequentialSampler(Rows(num_rows)), batch_size, **options)


def padded_share(batches: list[list[int]], lengths: Sequence[int]) -> float:
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths[row] for batch in batches for row in batch) / padded


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 1000, 1008])
def test_every_row_comes_once_and_only_the_last_batch_is_short(num_rows):
    batches = list(sampler(num_rows))
    assert sorted(row for batch in batches for row in batch) == list(range(num_rows))
    assert all(len(batch) == 16 for batch in batches[:-1])
    assert len(batches) == len(sampler(num_rows))


def test_drop_last_leaves_the_short_batch_out():
    dropping = sampler(1000, drop_last=True)
    batches = list(dropping)
    assert len(batches) == len(dropping) == 62
    assert {len(batch) for batch in batches} == {16}


def test_batches_pad_far_less_than_random_ones():
    grouped = sampler(4000)
    shuffled = list(range(4000))
    random.Random(0).shuffle(shuffled)
    plain = [shuffled[i : i + 16] for i in range(0, 4000, 16)]
    assert padded_share(list(grouped), grouped.lengths) < 0.1
    assert padded_share(plain, grouped.lengths) > 0.4


def test_batches_that_processes_take_together_are_of_like_length():
    grouped = sampler(4000)
    longest = [max(grouped.lengths[row] for row in batch) for batch in grouped]
    steps = [longest[i : i + 8] for i in range(0, len(longest) // 8 * 8, 8)]
    spread = sum(max(step) - min(step) for step in steps) / len(steps)
    everywhere = max(longest) - min(longest)
    assert spread < everywhere / 4


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    random.seed(1)
    first = list(sampler(seed=5))
    torch.manual_seed(2)
    random.seed(2)
    state = torch.get_rng_state()
    again = sampler(seed=5)
    assert list(again) == first
    assert list(again) == first
    assert torch.equal(torch.get_rng_state(), state)
    again.set_epoch(1)
    second = list(again)
    assert second != first
    assert list(sampler(seed=6)) not in (first, second)
    again.set_epoch(0)
    assert list(again) == first


def test_a_random_sampler_neither_changes_the_order_nor_is_drawn_from():
    rows = Rows(500)
    state = torch.get_rng_state()
    shuffled = list(LengthGroupedBatchSampler(RandomSampler(rows), 8, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert shuffled == list(LengthGroupedBatchSampler(SequentialSampler(rows), 8, seed=1))


def test_long_and_short_batches_are_mixed_over_the_epoch():
    grouped = sampler(8000)
    means = [sum(grouped.lengths[row] for row in batch) / 16 for batch in grouped]
    halves = [sum(means[:250]) / 250, sum(means[250:]) / 250]
    assert abs(halves[0] - halves[1]) < 40


def test_a_ranks_share_of_rows_is_kept_to():
    rows = Rows(100)
    shares = [
        LengthGroupedBatchSampler(DistributedSampler(rows, num_replicas=2, rank=rank, seed=3), 8)
        for rank in (0, 1)
    ]
    for share in shares:
        share.set_epoch(4)
    seen = [{row for batch in share for row in batch} for share in shares]
    assert seen[0] | seen[1] == set(range(100))
    assert not seen[0] & seen[1]
    assert [len(share) for share in shares] == [7, 7]


def test_accelerates_shards_cover_all_rows():
    shards = [
        list(BatchSamplerShard(sampler(1000), num_processes=2, process_index=rank))
        for rank in (0, 1)
    ]
    assert len(shards[0]) == len(shards[1])
    assert {row for shard in shards for batch in shard for row in batch} == set(range(1000))


def test_a_data_loader_takes_it():
    rows = Rows(40)
    loader = DataLoader(rows, batch_sampler=LengthGroupedBatchSampler(SequentialSampler(rows), 16))
    assert [len(batch) for batch in loader] == [16, 16, 8]


def test_given_lengths_replace_those_of_the_data():
    lengths = [1, 9] * 8
    made = LengthGroupedBatchSampler(SequentialSampler(range(16)), 8, lengths=lengths)
    assert {frozenset(lengths[row] for row in batch) for batch in made} == {
        frozenset({1}),
        frozenset({9}),
    }


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"neighbours": 0}, {"pool_batches": -1}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(DistillensError, match="expected at least 1"):
        sampler(10, **options)


def test_data_without_lengths_is_refused():
    with pytest.raises(DistillensError, match="a range has no `lengths`"):
        LengthGroupedBatchSampler(SequentialSampler(range(4)), 2)
