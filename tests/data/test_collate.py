"""Batches are padded to their own longest row, and name every supervised position."""

import numpy
import pytest
import torch

from distillens_plugin.data.collate import collate
from distillens_plugin.data.supervision import find_supervised
from eval_harness.errors import DistillensError


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


def plain(ids, labels, **more) -> dict:
    return {"input_ids": ids, "labels": labels, **more}


def test_rows_without_an_id_go_by_their_number_else_by_their_place():
    rows = [
        plain([1, 2], [-100, 2]),
        plain([1, 2], [-100, 2], index=17),
        plain([1, 2], [-100, 2], id=None, idx=torch.tensor(5)),
        plain([1, 2], [-100, 2], id="own", index=3),
    ]
    assert collate(rows)[1]["row_ids"] == ["0", "17", "5", "own"]


@pytest.mark.parametrize("kind", [numpy.array, torch.tensor, tuple])
def test_columns_may_be_arrays_and_others_are_left_out(kind):
    row = plain(kind([4, 5, 6]), kind([-100, 5, 6]), id="a", text="x", score=0.5)
    batch, targets = collate([row, example(2, 3)])
    expected, expected_targets = collate([plain([4, 5, 6], [-100, 5, 6], id="a"), example(2, 3)])
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert all(torch.equal(batch[key], expected[key]) for key in batch)
    assert torch.equal(targets["positions"], expected_targets["positions"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_rows_own_padding_is_left_out_by_its_mask(side):
    ids, labels, mask = [4, 5, 6], [-100, 5, 6], [1, 1, 1]
    padding = ([9, 9], [-100, -100], [0, 0])
    columns = [
        extra + own if side == "left" else own + extra
        for own, extra in zip((ids, labels, mask), padding, strict=True)
    ]
    batch, targets = collate([plain(columns[0], columns[1], attention_mask=columns[2])])
    expected, expected_targets = collate([plain(ids, labels)])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert torch.equal(targets["labels"], expected_targets["labels"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "found no rows"),
        ([plain([1, 2], [1])], "row '0' has 2 input_ids and 1 labels"),
        ([plain([1], [1], id="x", attention_mask=[1, 1])], "row 'x' has 1 input_ids and an atten"),
        ([{"input_ids": [1, 2]}], "row '0' has no labels; its columns are input_ids"),
        ([{"text": "a", "id": "q"}], "row 'q' has no input_ids"),
        ([plain([1, "a"], [1, 2])], "row '0': its input_ids are not a list of integers"),
        ([plain([1.5, 2], [1, 2])], "its input_ids have shape \\[2\\] and type float32"),
        ([plain([[1, 2]], [[1, 2]])], "its input_ids have shape \\[1, 2\\]"),
        (["a text"], "row 0 of the batch is str"),
    ],
)
def test_rows_that_make_no_batch_are_named(rows, message):
    with pytest.raises(DistillensError, match=message) as caught:
        collate(rows)
    assert "\n" not in str(caught.value)
