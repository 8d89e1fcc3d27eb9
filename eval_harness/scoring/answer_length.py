"""Length, emptiness and repetition of answers: what ROUGE-L alone hides."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from eval_harness.results.schema import Sample


@dataclass(frozen=True)
class AnswerStatistics:
    """Means over seeds; shares and distinct-4 are x 100.

    Attributes:
        length_words: mean white-space-separated words of an answer as it is scored.
        length_tokens: mean generated tokens, with those that a stop text cut off; None if the
            backend did not report them.
        empty: share of answers without a visible character.
        cut_off: share that reached the token limit before any stop; None if the backend did not
            report it.
        distinct_4: share of distinct four-word sequences among all those in one seed's answers; low
            if a model repeats itself. None if no answer has four words.
    """

    length_words: float
    length_tokens: float | None
    empty: float
    cut_off: float | None
    distinct_4: float | None

    def as_metrics(self) -> dict[str, float]:
        """The known values, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def answer_statistics(samples: Sequence[Sample]) -> AnswerStatistics:
    """Statistics of the cut answers (`filtered_resps`) of at least one sample."""
    texts = [text for sample in samples for text in sample.filtered_resps]
    tokens: list[int] = []
    reasons: list[str] = []
    for sample in samples:
        tokens += sample.num_tokens or []
        reasons += sample.finish_reason or []
    num_seeds = min(len(sample.filtered_resps) for sample in samples)
    by_seed = [
        distinct_runs([sample.filtered_resps[seed] for sample in samples])
        for seed in range(num_seeds)
    ]
    known = [value for value in by_seed if value is not None]
    return AnswerStatistics(
        length_words=sum(len(text.split()) for text in texts) / len(texts),
        length_tokens=sum(tokens) / len(tokens) if len(tokens) == len(texts) else None,
        empty=100 * sum(not text.strip() for text in texts) / len(texts),
        cut_off=100 * reasons.count("length") / len(reasons) if reasons else None,
        distinct_4=100 * sum(known) / len(known) if known else None,
    )


def distinct_runs(texts: Sequence[str], *, size: int = 4) -> float | None:
    """The share of distinct sequences of `size` words among all those in the texts, in (0, 1].

    Returns:
        None if no text has `size` words.
    Source: distinct-n of Li et al. 2016, over the whole set of answers as in MiniLLM.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        runs = list(zip(*(words[start:] for start in range(size)), strict=False))
        seen.update(runs)
        total += len(runs)
    return len(seen) / total if total else None
