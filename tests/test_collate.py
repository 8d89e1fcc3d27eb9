"""Batches are padded to their own longest row, and name every supervised position."""

import torch

from distillens_plugin.collate import collate
from distillens_plugin.supervision import find_supervised


def example(num_prompt: int, num_response: int, **more) -> dict:
    ids = list(range(10, 10 + num_prompt + num_response))
    return {
        "input_ids": ids,
        "labels": [-100] * num_prompt + ids[num_prompt:],
        "id": f"{num_prompt}-{num_response}",
        "pad_id": 7,
        **more,
    }


def test_rows_are_padded_on_the_right_to_a_multiple_of_eight():
    batch, targets = collate([example(2, 3), example(4, 5)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 16)
    assert batch["input_ids"][0].tolist() == [10, 11, 12, 13, 14] + [7] * 11
    assert batch["attention_mask"].sum(1).tolist() == [5, 9]
    assert batch["attention_mask"][1].tolist() == [1] * 9 + [0] * 7
    assert targets["labels"][0].tolist() == [-100, -100, 12, 13, 14] + [-100] * 11
    assert targets["row_ids"] == ["2-3", "4-5"]
    assert {batch["input_ids"].dtype, targets["labels"].dtype} == {torch.int64}


def test_padding_stops_at_the_rows_max_length_and_never_cuts():
    assert collate([example(2, 7, max_length=10)])[0]["input_ids"].shape == (1, 10)
    assert collate([example(2, 8, max_length=10)])[0]["input_ids"].shape == (1, 10)
    assert collate([example(2, 10, max_length=10)])[0]["input_ids"].shape == (1, 12)
    assert collate([example(8, 8)])[0]["input_ids"].shape == (1, 16)


def test_positions_are_those_whose_next_token_is_supervised():
    batch, targets = collate([example(2, 3), example(1, 2)])
    flat = batch["input_ids"].flatten()
    assert targets["positions"].tolist() == [1, 2, 3, 8, 9]
    assert targets["next_tokens"].tolist() == [12, 13, 14, 11, 12]
    assert torch.equal(targets["next_tokens"], flat[targets["positions"] + 1])
    positions, next_tokens = find_supervised(targets["labels"])
    assert torch.equal(positions, targets["positions"])
    assert torch.equal(next_tokens, targets["next_tokens"])


def test_a_first_token_with_a_label_is_predicted_by_no_position():
    _, targets = collate([example(0, 3), example(0, 3)])
    assert targets["positions"].tolist() == [0, 1, 8, 9]


def test_a_pad_token_inside_a_row_stays_attended_and_supervised():
    row = {"input_ids": [5, 7, 7], "labels": [-100, 7, 7], "id": "eos is pad", "pad_id": 7}
    batch, targets = collate([row])
    assert batch["attention_mask"].sum().item() == 3
    assert targets["next_tokens"].tolist() == [7, 7]


def test_a_batch_without_supervision_has_no_positions():
    _, targets = collate([example(5, 0), example(3, 0)])
    assert targets["positions"].shape == targets["next_tokens"].shape == (0,)
    assert targets["positions"].dtype == torch.int64
