"""The table of metrics: name, title, and the function that scores answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval_harness.scoring.exact_match import exact_match
from eval_harness.scoring.rouge import metric_of_tokenizer, rouge_l
from eval_harness.shared.text.final_answers import final_answer_score

Texts = Sequence[str]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        title: for tables.
        score: (N answers, N non-empty lists of references, name of a ROUGE-L scorer or None) -> N
            fractions in [0, 1].
        is_default: computed for every benchmark; the others only for benchmarks that name them.
    """

    title: str
    score: Callable[[Texts, Sequence[Texts], str | None], list[float]]
    is_default: bool = False


def _by_row(
    score: Callable[[str, Texts], float],
) -> Callable[[Texts, Sequence[Texts], str | None], list[float]]:
    def all_rows(answers: Texts, references: Sequence[Texts], scorer: str | None) -> list[float]:
        return [score(text, texts) for text, texts in zip(answers, references, strict=True)]

    return all_rows


METRICS: dict[str, Metric] = {
    "rougeL": Metric(
        "ROUGE-L",
        lambda answers, references, scorer: rouge_l(answers, references, backend=scorer),
        is_default=True,
    ),
    "rougeL_unicode": Metric(
        "ROUGE-L of Unicode words",
        lambda answers, references, scorer: rouge_l(
            answers, references, backend=scorer, tokenizer="unicode"
        ),
    ),
    "exact_match": Metric("exact match", _by_row(exact_match), is_default=True),
    "final_answer": Metric("final answer", _by_row(final_answer_score)),
}
DEFAULT_METRICS = tuple(name for name, metric in METRICS.items() if metric.is_default)


def metrics_with(metrics: Sequence[str], rouge_tokenizer: str) -> tuple[str, ...]:
    """A benchmark's metrics, and the one that --rouge_tokenizer asks for.

    Raises:
        DistillensError: there is no such tokenizer.
    """
    asked = metric_of_tokenizer(rouge_tokenizer)
    if asked in metrics:
        return tuple(metrics)
    checked = [name for name in metrics if name not in METRICS]
    return (*with_defaults([*metrics, asked]), *checked)


def with_defaults(metrics: Sequence[str]) -> list[str]:
    """The names in the table's order, always including the default ones."""
    return [name for name in METRICS if name in metrics or name in DEFAULT_METRICS]
