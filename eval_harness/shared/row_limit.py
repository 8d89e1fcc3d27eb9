"""How many of a task's rows `--limit` keeps."""

import math


def num_limited(limit: float | None, num_rows: int) -> int:
    """The number of first rows that are kept: at least one, if there is one, and at most all.

    Args:
        limit: a number of rows (an integer), or the share of them (below 1), of which lm-eval takes
            the ceiling; None: all.
    """
    if limit is None:
        return num_rows
    if limit >= 1:
        return min(int(limit), num_rows)
    # Rounded first: 0.07 of 100 rows is 7.000000000000001, whose ceiling is 8.
    return min(max(1, math.ceil(round(limit * num_rows, 9))), num_rows)
