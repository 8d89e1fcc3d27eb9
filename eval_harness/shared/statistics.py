"""What scores can and cannot show: intervals, paired tests, the smallest detectable difference.

The unit is the row. Answers to one row with several seeds are not independent observations, so
every function takes the row's mean over its seeds and resamples rows. Variation over rows predicts
scores on other questions with these models; it says nothing about retraining.
N rows, S seeds, R resamples, M columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# With this many, the ends of an interval move by 4 % of a standard error from seed to seed.
NUM_RESAMPLES = 5_000
NUM_SIGN_FLIPS = 10_000
# 2^16 sign patterns are enumerated faster than 10,000 random ones are drawn for many rows.
MAX_EXACT_ROWS = 16
# Numbers held at once by a resampling loop: 32 MB of float64.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class PairedComparison:
    """System a minus system b, row by row, in the unit of the scores.

    Attributes:
        difference: mean of a - b.
        low, high: row bootstrap interval of the difference; None with fewer than 2 rows.
        p_value: two-sided sign-flip test of "no difference", in (0, 1].
        exact: whether every sign pattern was enumerated.
        smallest_detectable: the true difference that would be found with 80 % power; None if too
            few rows differ to estimate it.
        num_rows: N;  num_differing: rows where a and b are not equal.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    exact: bool
    smallest_detectable: float | None
    num_rows: int
    num_differing: int


def row_means(scores: Sequence[Sequence[float]]) -> Floats:
    """[N] means over the seeds of each row; rows may have different numbers of seeds."""
    return np.array([sum(row) / len(row) for row in scores], dtype=np.float64)


def standard_error(rows: Floats) -> float | None:
    """Standard error of the mean of [N] row values; None for one row."""
    if len(rows) < 2:
        return None
    return float(np.std(rows, ddof=1) / np.sqrt(len(rows)))


def seed_means(scores: Sequence[Sequence[float]]) -> list[float]:
    """The mean over rows for each of the S seeds. Every row must have the same seeds."""
    return [float(value) for value in np.asarray(scores, dtype=np.float64).mean(axis=0)]


def seed_deviation(scores: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of the S per-seed means; None for one seed.

    It is sampling noise only: how much the score moves when the same model answers the same rows
    again. It says nothing about other rows and is not a standard error of the score.
    """
    means = seed_means(scores)
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def bootstrap_interval(
    rows: Floats, *, level: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the mean when rows are resampled with replacement.

    Args:
        rows: [N] row values (means over seeds, or differences of them).
        level: in (0, 1).
        num_resamples: R.
        seed: of the resampling; the same seed gives the same interval.
    Returns:
        (low, high), or None with fewer than 2 rows, which have no spread.
    Source: Efron 1979; rows as clusters as in Miller 2024, arXiv 2411.00640.
    """
    if len(rows) < 2:
        return None
    generator = np.random.default_rng(seed)
    means = np.concatenate(
        [
            rows[generator.integers(0, len(rows), (size, len(rows)), dtype=np.int32)].mean(axis=1)
            for size in _blocks(num_resamples, len(rows))
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p_value(
    differences: Floats, *, num_flips: int = NUM_SIGN_FLIPS, seed: int = 0
) -> tuple[float, bool]:
    """Two-sided p-value of "each row's difference is as likely to have the other sign".

    Rows without a difference change nothing and are left out. With up to MAX_EXACT_ROWS differing
    rows all sign patterns are enumerated; with more, random ones are drawn and the observed one is
    counted among them, so p is never 0.

    Args:
        differences: [N].
        num_flips: random sign patterns, R.
        seed: of the patterns.
    Returns:
        (p in (0, 1], whether it is exact).
    Source: Fisher 1935; the +1 correction is Phipson and Smyth 2010.
    """
    rows = differences[differences != 0]
    observed = abs(float(rows.sum()))
    # Sums in another order differ in their last bits; without this a tie would be lost.
    threshold = observed - 1e-12 * float(np.abs(rows).sum())
    if len(rows) <= MAX_EXACT_ROWS:
        patterns = np.arange(2 ** len(rows))[:, None] >> np.arange(len(rows)) & 1
        sums = (1.0 - 2.0 * patterns) @ rows
        return float(np.mean(np.abs(sums) >= threshold)), True
    generator = np.random.default_rng(seed)
    num_extreme = 0
    for size in _blocks(num_flips, len(rows)):
        bits = np.unpackbits(
            np.frombuffer(generator.bytes(size * len(rows) // 8 + 1), dtype=np.uint8)
        )
        signs = 1.0 - 2.0 * bits[: size * len(rows)].reshape(size, len(rows))
        num_extreme += int(np.sum(np.abs(signs @ rows) >= threshold))
    return (1 + num_extreme) / (1 + num_flips), False


def smallest_detectable_difference(
    differences: Floats, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The true mean difference that a two-sided test at `alpha` finds with this power.

    (t_{1 - alpha/2} + t_{power}) times the standard error of these differences.

    Args:
        differences: [N] of the two systems that were compared.
    Returns:
        None if the differences have no spread, or if so few rows differ that the sign-flip test
        could not reject at all (2^(1 - k) > alpha for k of them).
    """
    error = standard_error(differences)
    num_differing = int(np.count_nonzero(differences))
    if not error or 2.0 ** (1 - num_differing) > alpha:
        return None
    freedom = len(differences) - 1
    return (student_quantile(1 - alpha / 2, freedom) + student_quantile(power, freedom)) * error


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion in 1 / freedom; within 1 % from 5 degrees up.

    Source: Abramowitz and Stegun 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order; one below alpha is rejected at family level.

    Source: Holm 1979.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_paired(
    rows_a: Floats,
    rows_b: Floats,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedComparison:
    """Compares two systems on the same rows.

    Args:
        rows_a: [N] row means of system a;  rows_b: [N] of b, row by row the same questions.
        alpha: of the smallest detectable difference; divide it by the number of comparisons.
    Raises:
        ValueError: the lengths differ or are 0.
    """
    if len(rows_a) != len(rows_b) or not len(rows_a):
        raise ValueError(f"cannot pair {len(rows_a)} rows with {len(rows_b)}")
    differences = rows_a - rows_b
    interval = bootstrap_interval(differences, seed=seed)
    p_value, exact = sign_flip_p_value(differences, seed=seed)
    return PairedComparison(
        difference=float(differences.mean()),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        p_value=p_value,
        exact=exact,
        smallest_detectable=smallest_detectable_difference(differences, alpha=alpha),
        num_rows=len(differences),
        num_differing=int(np.count_nonzero(differences)),
    )


def correlation(x: Floats, y: Floats) -> float | None:
    """Pearson's correlation of two [N] arrays; None if either does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _blocks(num_resamples: int, num_rows: int) -> Iterator[int]:
    """Sizes of the blocks in which `num_resamples` are drawn, so that memory stays bounded."""
    size = max(1, _BLOCK // max(1, num_rows))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)
