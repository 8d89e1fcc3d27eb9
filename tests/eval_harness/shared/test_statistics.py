"""The statistics against other formulas, and against what they promise in simulations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from eval_harness.shared.statistics import (
    bootstrap_interval,
    compare_paired,
    correlation,
    holm,
    row_means,
    seed_deviation,
    seed_means,
    sign_flip_p_value,
    smallest_detectable_difference,
    standard_error,
    student_quantile,
)

# Enough to tell 5 % from 10 % (three standard deviations are 3.3 points), and quick.
NUM_TRIALS = 400


def skewed_rows(generator: np.random.Generator, num_rows: int) -> np.ndarray:
    """Like ROUGE-L per row: between 0 and 1, most of them low. Mean 0.25."""
    return generator.beta(1.0, 3.0, num_rows)


def interval(rows: np.ndarray, **options: Any) -> tuple[float, float]:
    found = bootstrap_interval(rows, **options)
    assert found is not None
    return found


def within(count: int, expected: float, *, deviations: float = 3.5) -> bool:
    """Whether a binomial count of NUM_TRIALS agrees with the expected share."""
    spread = math.sqrt(NUM_TRIALS * expected * (1 - expected))
    return abs(count - NUM_TRIALS * expected) <= deviations * spread


def test_interval_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(NUM_TRIALS):
        low, high = interval(skewed_rows(generator, 80), num_resamples=1000, seed=trial)
        covered += low <= 0.25 <= high
    assert within(covered, 0.94)


def test_interval_that_took_rows_times_seeds_as_independent_would_be_too_narrow():
    generator = np.random.default_rng(2)
    covered_rows = covered_all = 0
    for trial in range(NUM_TRIALS):
        rows = skewed_rows(generator, 60)[:, None] + generator.normal(0, 0.02, (60, 5))
        low, high = interval(row_means(rows.tolist()), num_resamples=500, seed=trial)
        covered_rows += low <= 0.25 <= high
        low, high = interval(rows.ravel(), num_resamples=500, seed=trial)
        covered_all += low <= 0.25 <= high
    assert within(covered_rows, 0.94)
    assert covered_all < 0.75 * NUM_TRIALS


@pytest.mark.parametrize("num_rows", [10, 60])
def test_sign_flip_test_finds_nothing_95_times_in_100_where_nothing_is(num_rows):
    generator = np.random.default_rng(3)
    found = 0
    for trial in range(NUM_TRIALS):
        differences = generator.laplace(0, 1, num_rows)
        p_value, exact = sign_flip_p_value(differences, num_flips=999, seed=trial)
        assert exact == (num_rows == 10)
        found += p_value <= 0.05
    assert within(found, 0.05)


@pytest.mark.parametrize(("num_rows", "alpha"), [(15, 0.05), (80, 0.05), (80, 0.05 / 6)])
def test_smallest_detectable_difference_is_found_80_times_in_100(num_rows, alpha):
    generator = np.random.default_rng(4)
    found = 0
    for trial in range(NUM_TRIALS):
        noise = generator.normal(0, 1, num_rows)
        reach = smallest_detectable_difference(noise, alpha=alpha)
        # The reach of a typical sample, not of this one, is the true difference.
        error = standard_error(noise)
        assert reach is not None
        assert error is not None
        true = reach / error / math.sqrt(num_rows)
        p_value, _ = sign_flip_p_value(noise + true, num_flips=1999, seed=trial)
        found += p_value <= alpha
    assert within(found, 0.8)


def test_exact_p_value_is_the_share_of_all_sign_patterns():
    differences = np.array([0.5, -0.25, 0.75, 0.0, 1.0, 0.125])
    observed = abs(differences.sum())
    patterns = list(itertools.product([1, -1], repeat=len(differences)))
    extreme = sum(
        abs(sum(s * d for s, d in zip(p, differences, strict=True))) >= observed for p in patterns
    )
    assert sign_flip_p_value(differences) == (extreme / len(patterns), True)


def test_exact_p_value_counts_ties_in_spite_of_rounding():
    generator = np.random.default_rng(8)
    for _ in range(20):
        # Tenths, whose sums are often equal, but not in their last bits.
        tenths = generator.integers(1, 9, 10)
        signs = np.array(list(itertools.product([1, -1], repeat=10)))
        expected = float(np.mean(np.abs(signs @ tenths) >= tenths[:5].sum() - tenths[5:].sum()))
        differences = np.concatenate([tenths[:5], -tenths[5:]]) / 10
        if differences.sum() >= 0:
            assert sign_flip_p_value(differences) == (expected, True)


def test_monte_carlo_p_value_agrees_with_the_normal_one_and_is_never_zero():
    generator = np.random.default_rng(5)
    differences = generator.normal(0.2, 1, 100)
    z = differences.sum() / math.sqrt(float(np.sum(differences**2)))
    p_value, exact = sign_flip_p_value(differences)
    assert not exact
    assert p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.015)
    assert sign_flip_p_value(np.full(100, 3.0), num_flips=99)[0] == 1 / 100


def test_equal_systems_show_no_difference():
    rows = np.linspace(0, 1, 30)
    result = compare_paired(rows, rows)
    assert (result.difference, result.p_value, result.num_differing) == (0.0, 1.0, 0)
    assert (result.low, result.high, result.smallest_detectable) == (0.0, 0.0, None)


def test_too_few_differing_rows_say_nothing_about_the_smallest_difference():
    differences = np.zeros(100)
    differences[:5] = [1, 2, -1, 3, 1]
    # Five signs give p = 2 / 32 at least, six 2 / 64.
    assert smallest_detectable_difference(differences) is None
    differences[5] = 1
    assert smallest_detectable_difference(differences) is not None
    assert smallest_detectable_difference(differences, alpha=0.025) is None
    assert smallest_detectable_difference(np.ones(100)) is None


def test_interval_agrees_with_the_normal_one_for_many_rows():
    rows = skewed_rows(np.random.default_rng(6), 2000)
    low, high = interval(rows)
    error = 1.96 * rows.std(ddof=1) / math.sqrt(len(rows))
    assert low == pytest.approx(rows.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(rows.mean() + error, abs=0.1 * error)
    assert error / 1.96 == pytest.approx(standard_error(rows))


def test_same_seed_same_interval_and_memory_blocks_change_nothing_but_the_draw(monkeypatch):
    rows = skewed_rows(np.random.default_rng(7), 50)
    assert bootstrap_interval(rows, seed=3) == bootstrap_interval(rows, seed=3)
    assert bootstrap_interval(rows, seed=3) != bootstrap_interval(rows, seed=4)
    whole = bootstrap_interval(rows), sign_flip_p_value(rows - 0.25)
    monkeypatch.setattr("eval_harness.shared.statistics._BLOCK", 50 * 7)
    blocks = bootstrap_interval(rows), sign_flip_p_value(rows - 0.25)
    assert blocks[0] == pytest.approx(whole[0], abs=0.01)
    assert blocks[1][0] == pytest.approx(whole[1][0], abs=0.02)


def test_one_row_has_no_interval_and_no_error():
    row = np.array([0.5])
    assert bootstrap_interval(row) is None
    assert standard_error(row) is None
    result = compare_paired(row, np.array([0.25]))
    assert (result.low, result.high, result.smallest_detectable) == (None, None, None)
    assert (result.p_value, result.exact) == (1.0, True)


def test_rows_must_pair():
    with pytest.raises(ValueError, match="cannot pair 2 rows with 3"):
        compare_paired(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="cannot pair 0 rows"):
        compare_paired(np.zeros(0), np.zeros(0))


def test_holm_matches_its_definition():
    # 4 x 0.01, 3 x 0.02, then 2 x 0.03 and 0.2, never falling.
    assert holm([0.2, 0.01, 0.03, 0.02]) == pytest.approx([0.2, 0.04, 0.06, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    # From printed tables of Student's t.
    ("probability", "freedom", "expected"),
    [(0.975, 5, 2.5706), (0.975, 10, 2.2281), (0.8, 5, 0.9195), (0.975, 79, 1.9905)],
)
def test_student_quantiles_match_the_tables(probability, freedom, expected):
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=0.01)


def test_row_and_seed_means():
    scores = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert row_means(scores).tolist() == [0.5, 0.5, 0.5]
    assert seed_means(scores) == [0.5, 0.5]
    assert seed_deviation([[0.0, 1.0], [0.0, 0.5]]) == pytest.approx(0.75 / math.sqrt(2))
    assert seed_deviation([[0.3], [0.4]]) is None


def test_correlation_needs_variation():
    x = np.array([1.0, 2.0, 3.0])
    assert correlation(x, -x) == pytest.approx(-1.0)
    assert correlation(x, np.ones(3)) is None
