"""Log-probabilities of one fixed text, by which a model is known again whose weights are not seen.

Rounding to bfloat16 in other batches and on other devices changes them by a few hundredths; other
weights change them by several tenths, on tokens that are unlikely.
"""

from collections.abc import Sequence

# In nats, the mean over the text's tokens.
LARGEST_DIFFERENCE = 0.1


def difference_of(known: Sequence[float], found: Sequence[float]) -> float:
    """The mean difference in nats, over the tokens that both have: a shorter one is a beginning."""
    pairs = list(zip(known, found, strict=False))
    return sum(abs(a - b) for a, b in pairs) / len(pairs) if pairs else float("inf")
