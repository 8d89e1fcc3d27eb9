"""What verdicts add up to: MT-Bench's rule, rows as the unit, and the judge's biases."""

import itertools

import pytest

from eval_harness.judging.pairs import Pair
from eval_harness.judging.tally import Judged, judged_pairs, tally

EITHER = ("A", "B", "C")


def pair(row: int, a: str = "one two three", b: str = "one", seed: int = 0) -> Pair:
    return Pair("t", str(row), seed, (a, b), (f"{row} {seed} {a} {b}", f"{row} {seed} {b} {a}"))


def judged(*verdicts, **texts) -> list[Judged]:
    return [Judged(pair(row, **texts), given) for row, given in enumerate(verdicts)]


@pytest.mark.parametrize("verdicts", itertools.product(EITHER, EITHER))
def test_a_system_wins_only_if_both_orders_prefer_it(verdicts):
    expected = {("A", "B"): "a", ("B", "A"): "b"}.get(verdicts, "tie")
    assert judged(verdicts)[0].outcome == expected


def test_a_pair_without_two_verdicts_has_no_outcome():
    for verdicts in (("A", None), (None, "B"), ("unreadable", "B"), ("A", "refused")):
        assert judged(verdicts)[0].outcome == "not judged"
    assert tally(judged(("A", None))) is None


def test_identical_answers_are_a_tie_that_was_not_asked_about():
    same = judged((None, None), ("A", "B"))
    same[0] = Judged(pair(0, a="x", b=" x\n"), (None, None))
    found = tally(same)
    assert (found.wins, found.ties, found.num_same, found.num_missing) == (1, 1, 1, 0)
    assert found.win_rate == 75.0
    assert found.position.num_verdicts == 2


def test_a_row_with_many_seeds_counts_once():
    items = [Judged(pair(0, seed=seed), ("A", "B")) for seed in range(9)]
    items += [Judged(pair(row), ("B", "A")) for row in (1, 2)]
    found = tally(items)
    assert (found.num_rows, found.num_pairs, found.wins, found.losses) == (3, 11, 9, 2)
    assert found.win_rate == pytest.approx(100 / 3)


def test_rate_interval_and_p_value_are_those_of_a_sign_test():
    found = tally(judged(*[("A", "B")] * 9, ("B", "A"), *[("C", "C")] * 5))
    assert found.win_rate == pytest.approx(100 * (9 + 2.5) / 15)
    low, high = found.interval()
    assert 50 < low < found.win_rate < high < 100
    assert found.paired.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    flipped = tally(judged(*[("B", "A")] * 9, ("A", "B"), *[("C", "C")] * 5))
    assert flipped.win_rate == pytest.approx(100 - found.win_rate)
    assert flipped.paired.p_value == found.paired.p_value


def test_biases_of_place_and_length_are_counted():
    verdicts = [("A", "A"), ("A", "A"), ("B", "B"), ("A", "C"), ("A", "B"), ("B", "A")]
    items = judged(*verdicts)
    items.append(Judged(pair(6, a="one", b="one two"), ("unreadable", "C")))
    found = tally(items)
    assert (found.num_flipped, found.num_half, found.num_unreadable) == (3, 1, 1)
    assert (found.position.num_verdicts, found.position.first) == (13, pytest.approx(700 / 13))
    assert found.a_first.first == pytest.approx(400 / 6)
    assert found.b_first.first == pytest.approx(300 / 7)
    lengths = found.lengths
    assert (lengths.winners, lengths.losers) == (2, 2)
    assert (lengths.longer_won, lengths.num_won) == (1, 2)
    assert (lengths.a, lengths.b) == (pytest.approx(19 / 7), pytest.approx(8 / 7))


def test_verdicts_find_their_pairs_by_what_was_asked():
    one = pair(0)
    turned = Pair("t", "0", 0, one.answers[::-1], one.messages[::-1])
    verdicts = {one.key(0): "A", one.key(1): "B"}
    assert [item.outcome for item in judged_pairs([one, turned, pair(1)], verdicts)] == [
        "a",
        "b",
        "not judged",
    ]
