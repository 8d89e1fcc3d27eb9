"""Layer pairs that ascend in both models and differ least, by dynamic programming."""

import numpy as np
from numpy.typing import ArrayLike

from eval_harness.errors import DistillensError

# The sum of the divergences, and what decides between equal ones: how far off equal relative depth.
_Cost = tuple[float, float]
_Best = tuple[_Cost, tuple[tuple[int, int], ...]]


def monotone_pairs(values: ArrayLike, num_pairs: int) -> list[tuple[int, int]]:
    """The pairs (i, j), strictly increasing in both, whose mean value is least.

    Of pairs with equal sums those win that are nearer to equal relative depth: the smaller sum of
    |(i + 1) / (A + 1) - (j + 1) / (B + 1)|. The cost is K A B steps.

    Args:
        values: [A, B], such as `LayerMatrix.values`.
        num_pairs: K, at least 1 and at most min(A, B).
    Returns:
        K places in the matrix, not layer numbers.
    Raises:
        DistillensError: another K, or a value that is not finite.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise DistillensError("layer pairs: expected a matrix of finite divergences")
    rows, columns = matrix.shape
    if not 1 <= num_pairs <= min(rows, columns):
        raise DistillensError(
            f"layer pairs: found {num_pairs} pairs of {rows} x {columns} layers, expected 1 to "
            f"{min(rows, columns)}"
        )
    nothing: _Best = ((0.0, 0.0), ())
    before: list[list[_Best | None]] = [[nothing] * (columns + 1) for _ in range(rows + 1)]
    for _ in range(num_pairs):
        now: list[list[_Best | None]] = [[None] * (columns + 1) for _ in range(rows + 1)]
        for i in range(1, rows + 1):
            for j in range(1, columns + 1):
                found = [each for each in (now[i - 1][j], now[i][j - 1]) if each is not None]
                shorter = before[i - 1][j - 1]
                if shorter is not None:
                    (value, off), pairs = shorter
                    off += abs(i / (rows + 1) - j / (columns + 1))
                    cost = (value + float(matrix[i - 1, j - 1]), off)
                    found.append((cost, (*pairs, (i - 1, j - 1))))
                now[i][j] = min(found) if found else None
        before = now
    best = before[rows][columns]
    assert best is not None  # K fits
    return list(best[1])
