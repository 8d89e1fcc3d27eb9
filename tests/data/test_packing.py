"""Packs hold every row once, with restarting positions and labels that stay within their row."""

import random

import pytest
import torch
from boxes import Rows
from torch.utils.data import DataLoader, Dataset

from distillens_plugin.data.collate import collate
from distillens_plugin.data.packing import PackedDataset, best_fit
from eval_harness.errors import DistillensError


class LongRows(Dataset):
    """Rows of 10 to 200 tokens, each token its own; a third of each row is a prompt."""

    def __init__(self, num_rows):
        rng = random.Random(3)
        self.lengths = [rng.randint(10, 200) for _ in range(num_rows)]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        ids = [1000 * index + t for t in range(self.lengths[index])]
        masked = len(ids) // 3
        labels = [-100] * masked + ids[masked:]
        return {"input_ids": ids, "labels": labels, "id": f"row {index}", "pad_id": 7}


def test_best_fit_chooses_the_fullest_pack_that_has_room():
    lengths = [6, 7, 3, 4, 10, 1]
    # 3 fits beside 6 and 7, and fills the second pack; 4 fills the first.
    assert best_fit(lengths, 10, range(6)) == [[0, 3], [1, 2], [4], [5]]
    assert best_fit(lengths, 10, []) == []


@pytest.mark.parametrize("num_rows", [1, 5, 400])
def test_every_row_comes_once_and_no_pack_is_too_long(num_rows):
    packs = PackedDataset(LongRows(num_rows), 256)
    assert sorted(row for pack in packs.packs for row in pack) == list(range(num_rows))
    assert max(packs.lengths) <= 256
    assert packs.lengths == [len(packs[index]["input_ids"]) for index in range(len(packs))]


def test_packs_of_many_rows_are_nearly_full():
    packs = PackedDataset(LongRows(2000), 512)
    full = sum(packs.lengths) / (512 * len(packs))
    assert full > 0.98
    assert packs.describe() == (
        f"packing: 2,000 rows in {len(packs)} packs of up to 512 tokens, {full:.0%} full"
    )


def test_packs_depend_on_the_seed_alone():
    rows = LongRows(200)
    random.seed(1)
    first = PackedDataset(rows, 300, seed=5).packs
    random.seed(2)
    assert PackedDataset(rows, 300, seed=5).packs == first
    assert PackedDataset(rows, 300, seed=6).packs != first


def test_long_and_short_rows_share_packs():
    rows = LongRows(1000)
    packs = PackedDataset(rows, 400).packs
    mixed = [p for p in packs if {rows.lengths[row] > 100 for row in p} == {True, False}]
    assert len(mixed) > len(packs) / 2


def test_a_row_longer_than_a_pack_is_refused():
    rows = LongRows(50)
    longest = max(rows.lengths)
    message = f"row {rows.lengths.index(longest)} has {longest} tokens, expected at most the 90"
    with pytest.raises(DistillensError, match=message):
        PackedDataset(rows, 90)


def test_a_batch_holds_positions_instead_of_a_mask():
    packs = PackedDataset(Rows(12), 32, seed=1)
    batch, targets = collate([{**packs[0], "pad_id": 9}, {**packs[1], "pad_id": 9}])
    assert batch.keys() == {"input_ids", "position_ids"}
    assert batch["input_ids"].shape == batch["position_ids"].shape == (2, 32)
    for place in (0, 1):
        lengths = [packs.rows.lengths[row] for row in packs.packs[place]]
        used = sum(lengths)
        positions = [t for length in lengths for t in range(length)]
        # The padding counts nowhere beyond what a short row does.
        assert batch["position_ids"][place].tolist() == positions + [0] * (32 - used)
        assert batch["input_ids"][place, used:].tolist() == [9] * (32 - used)
    assert targets["num_tokens"] == sum(packs.lengths[:2])
    assert targets["row_ids"] == [f"row-{row}" for pack in packs.packs[:2] for row in pack]


def test_each_row_has_the_labels_that_it_has_alone():
    rows = LongRows(9)
    packs = PackedDataset(rows, 400)
    _, targets = collate([packs[index] for index in range(len(packs))])
    _, padded = collate([rows[row] for pack in packs.packs for row in pack])
    # Each token is its row's own, so the lists match row by row.
    assert targets["next_tokens"].tolist() == padded["next_tokens"].tolist()
    alone = [rows.lengths[row] - rows.lengths[row] // 3 for pack in packs.packs for row in pack]
    assert targets["row_counts"] == alone


def test_no_token_follows_another_rows_last_one():
    """Rows without a prompt: their first token has a label, which nothing predicts."""
    pack = {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]}
    _, targets = collate([pack])
    assert targets["next_tokens"].tolist() == [6, 8]
    assert targets["positions"].tolist() == [0, 2]
    # Without row_ids the pack counts as one row.
    assert (targets["row_ids"], targets["row_counts"]) == (["0"], [2])


def test_rows_of_one_token_keep_the_next_row_apart():
    pack = {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "position_ids": [0, 0, 1]}
    _, targets = collate([{**pack, "row_ids": ["a", "b"]}])
    assert targets["next_tokens"].tolist() == [7]
    assert targets["row_counts"] == [0, 1]


def test_the_labels_given_are_left_as_they_are():
    labels = torch.tensor([5, 6])
    collate([{"input_ids": labels, "labels": labels, "position_ids": torch.tensor([0, 1])}])
    assert labels.tolist() == [5, 6]


def test_padding_that_a_pack_comes_with_is_left_out():
    columns = {"input_ids": [5, 6, 0], "labels": [5, 6, -100], "position_ids": [0, 1, 2]}
    batch, targets = collate([{**columns, "attention_mask": [1, 1, 0], "max_length": 2}])
    assert batch["position_ids"].tolist() == [[0, 1]]
    assert targets["num_tokens"] == 2


def test_a_data_loader_takes_packs():
    packs = PackedDataset(Rows(40), 32)
    loader = DataLoader(packs, batch_size=3, collate_fn=collate)
    seen = [row for _, targets in loader for row in targets["row_ids"]]
    assert sorted(seen) == sorted(f"row-{row}" for row in range(40))


def pack(positions, **more):
    return {"input_ids": [4] * 3, "labels": [4] * 3, "position_ids": positions, "id": "p", **more}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([pack([1, 2, 3])], r"position_ids\[0\] is 1 at the beginning, expected 0, 1, 2"),
        ([pack([0, 2, 3])], r"position_ids\[1\] is 2 after 0"),
        ([pack([0, 1, 1])], r"position_ids\[2\] is 1 after 1"),
        ([pack([0, 1])], "has 3 input_ids and 2 position_ids, expected as many"),
        ([pack([0, 1, 0], row_ids=["a"])], "has 1 row_ids, but its position_ids begin 2 times"),
        (
            [pack([0, 1, 2]), {"input_ids": [1], "labels": [1], "id": "q"}],
            "row 'q' has no position_ids, but row 'p' of the same batch has them",
        ),
    ],
)
def test_packs_that_make_no_batch_are_named(examples, message):
    with pytest.raises(DistillensError, match=message):
        collate(examples)
