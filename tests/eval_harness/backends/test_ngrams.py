"""The no-repeat-n-gram rule, held against transformers' own processor."""

import json

import pytest
import torch
from transformers import AutoTokenizer, NoRepeatNGramLogitsProcessor

from eval_harness.backends.ngrams import NgramHistory, ban_repeats, first_repeat
from eval_harness.shared.text.templates import render_prompt


def sequences(num: int, vocabulary: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (num,), generator=generator).tolist()
    return [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def banned_by_transformers(tokens: list[int], size: int, vocabulary: int) -> set[int]:
    scores = NoRepeatNGramLogitsProcessor(size)(torch.tensor([tokens]), torch.zeros(1, vocabulary))
    return set(torch.isinf(scores[0]).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_history_bans_what_transformers_bans(size):
    # Three tokens only, so that repeats are everywhere.
    for tokens in sequences(200, 3, 30):
        history = NgramHistory(size, tokens[: len(tokens) // 2])
        history.extend(tokens[len(tokens) // 2 :])
        assert set(history.banned()) == banned_by_transformers(tokens, size, 3)
        assert history.length == len(tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_matrix_form_bans_the_same(size):
    tokens = sequences(200, 3, 30)
    matrix = torch.full((200, 35), 1)
    for row, sequence in enumerate(tokens):
        matrix[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(sequence) for sequence in tokens])
    sizes = torch.full((200,), size)
    sizes[::7] = 0
    banned = ban_repeats(torch.zeros(200, 3), matrix, lengths, sizes)
    for row, sequence in enumerate(tokens):
        expected = set(NgramHistory(size, sequence).banned()) if sizes[row] else set()
        assert set(torch.isinf(banned[row]).nonzero()[:, 0].tolist()) == expected


def test_rows_of_the_matrix_may_have_different_sizes():
    tokens = torch.tensor([[1, 2, 1, 2], [1, 2, 1, 2]])
    banned = ban_repeats(torch.zeros(2, 3), tokens, torch.tensor([4, 4]), torch.tensor([2, 4]))
    assert torch.isinf(banned).tolist() == [[False, True, False], [False, False, False]]


def test_sizes_longer_than_the_matrix_ban_nothing():
    banned = ban_repeats(
        torch.zeros(1, 3), torch.ones(1, 4).long(), torch.tensor([4]), torch.tensor([6])
    )
    assert torch.isfinite(banned).all()


def test_first_repeat_counts_the_prompt():
    assert first_repeat([1, 2, 3], [9, 1, 2, 3], 3) == 3
    assert first_repeat([1, 2, 3], [9, 1, 2, 4], 3) is None


def test_size_below_one_is_refused():
    with pytest.raises(ValueError, match="size = 0"):
        NgramHistory(0, [])


def test_a_quarter_of_self_inst_references_break_the_rule(shared):
    """Why the rule is off by default: it forbids right answers."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/gpt2")
    lines = (shared / "data/bench/self_inst/valid.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines if line]
    broken = 0
    for row in rows:
        prompt = tokenizer(render_prompt("alpaca", row["instruction"], row["input"]))["input_ids"]
        answer = tokenizer(row["output"])["input_ids"]
        broken += first_repeat(prompt[:256], answer[:256], 6) is not None
    assert broken / len(rows) == pytest.approx(0.23, abs=0.01)
