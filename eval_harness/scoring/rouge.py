"""ROUGE-L F-measure with the Porter stemmer; all backends give the same values."""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Sequence

from eval_harness.errors import DistillensError
from eval_harness.scoring.unicode_words import UnicodeTokenizer, unicode_version
from eval_harness.shared.shortened import shortened

# Distribution name -> module; the first one installed is used.
BACKENDS = {"rouge-score-rs": "rouge_score_rs", "rouge-score": "rouge_score"}
# What --rouge_tokenizer takes -> the metric of those words.
TOKENIZERS = {"default": "rougeL", "unicode": "rougeL_unicode"}
_PAIRS_PER_CALL = 8192


def rouge_backend(backend: str | None = None) -> str:
    """The scoring backend: the given one, else the fastest installed.

    Raises:
        DistillensError: unknown or not installed.
    """
    if backend is not None and backend not in BACKENDS:
        raise DistillensError(
            f"scoring backend {backend!r} is not known; expected {' or '.join(BACKENDS)}"
        )
    for name in [backend] if backend else BACKENDS:
        if importlib.util.find_spec(BACKENDS[name]):
            return name
    raise DistillensError(
        f"scoring backend {backend or 'rouge-score'} is not installed; pip install "
        f"{backend or 'rouge-score'}"
    )


def rouge_version(backend: str) -> str:
    """Name and version of an installed backend, as kept in results: "rouge-score-rs 0.2.1"."""
    return f"{backend} {importlib.metadata.version(backend)}"


def tokenizer_version(metrics: Iterable[str]) -> dict[str, str]:
    """For results: what the words of these metrics depend on beside the backend, if anything."""
    return {"rouge_tokenizer": unicode_version()} if TOKENIZERS["unicode"] in metrics else {}


def rouge_l(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    backend: str | None = None,
    num_workers: int | None = None,
    tokenizer: str = "default",
) -> list[float]:
    """ROUGE-L F-measure of each prediction, the maximum over its references.

    Words are runs of a-z and 0-9 after lower-casing, so a text without any scores 0, even against
    itself; with the tokenizer "unicode", words of any script (`unicode_words`). Both backends give
    identical values, bit for bit.

    Args:
        predictions: N texts; any Python string, lone surrogates included.
        references: N non-empty sequences of texts.
        backend: a key of BACKENDS; the fastest installed by default.
        num_workers: processes of the rouge-score backend; by default the cores that this process
            may use. Small inputs get fewer.
        tokenizer: a key of TOKENIZERS.
    Returns:
        N fractions in [0, 1].
    Raises:
        ValueError: lengths differ, or a row has no reference.
        DistillensError: the backend is not installed, or the tokenizer not known.
    Source: Lin 2004, as implemented by Google's rouge-score.
    """
    metric_of_tokenizer(tokenizer)
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} reference lists")
    pairs: list[tuple[str, str]] = []
    for row, texts in enumerate(references):
        if not texts:
            raise ValueError(f"row {row} has no reference")
        pairs.extend((text, predictions[row]) for text in texts)
    if rouge_backend(backend) == "rouge-score-rs":
        values = _score_natively(pairs, tokenizer)
    else:
        from eval_harness.scoring.rouge_workers import score_in_processes

        num_workers = num_workers or num_cores()
        values = score_in_processes(pairs, num_workers=num_workers, tokenizer=tokenizer)
    best, start = [], 0
    for texts in references:
        best.append(max(values[start : start + len(texts)]))
        start += len(texts)
    return best


def num_cores() -> int:
    """The cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def metric_of_tokenizer(name: str) -> str:
    """The metric that counts the words of a tokenizer.

    Raises:
        DistillensError: the name is not known.
    """
    if name not in TOKENIZERS:
        raise DistillensError(
            f"rouge_tokenizer {shortened(repr(name))} is not known, expected "
            f"{' or '.join(TOKENIZERS)}"
        )
    return TOKENIZERS[name]


def _score_natively(pairs: Sequence[tuple[str, str]], tokenizer: str) -> list[float]:
    from rouge_score_rs.rouge_scorer import RougeScorer
    from rouge_score_rs.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=True)
    scorer = RougeScorer(
        ["rougeL"], tokenizer=UnicodeTokenizer(words) if tokenizer == "unicode" else words
    )
    values: list[float] = []
    # One lone surrogate makes the backend copy its whole batch, so batches stay small.
    for start in range(0, len(pairs), _PAIRS_PER_CALL):
        part = pairs[start : start + _PAIRS_PER_CALL]
        scores = scorer.score_batch([target for target, _ in part], [text for _, text in part])
        values.extend(float(score["rougeL"].fmeasure) for score in scores)
    return values
