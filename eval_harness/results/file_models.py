"""The form of results, samples and stored answers in their files, checked key by key."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from eval_harness.results.format_version import RESULTS_FORMAT
from eval_harness.shared.files.typed_json import Count, Number, Strict

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MetricValue = Number | str | list[Number] | None


def _file_name(name: str) -> str:
    if not name or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError("a task's name is at most 200 printable characters without / and \\")
    return name


TaskName = Annotated[str, AfterValidator(_file_name)]


def _not_empty(name: str) -> str:
    # Not with min_length: pydantic would then refuse lone surrogates.
    if not name:
        raise ValueError("a model's name is not empty")
    return name


ModelName = Annotated[str, AfterValidator(_not_empty)]


def _document(doc: dict[str, Any]) -> dict[str, Any]:
    row_id = doc.get("id")
    if isinstance(row_id, bool) or not isinstance(row_id, str | int | None):
        raise ValueError("doc.id must be a string, an integer or null")
    return doc


def _as_list(value: object) -> Any:
    return [value] if isinstance(value, str) else value


class SampleExtra(Strict):
    """The keys of `Sample.extra` that we read."""

    reference_nll: list[Number] = Field(default_factory=list)
    reference_tokens: list[Count] = Field(default_factory=list)


class SampleRow(Strict):
    """One line of a samples file."""

    doc_id: Count
    doc: Annotated[dict[str, Any], AfterValidator(_document)]
    target: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    targets: list[str] = Field(default_factory=list)
    arguments: dict[str, Any]
    resps: list[Annotated[list[str], Field(min_length=1)]]
    filtered_resps: list[str]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    num_tokens: list[Count] | None = None
    finish_reason: list[str] | None = None
    scores: dict[str, list[Percent]] = Field(default_factory=dict)
    extra: SampleExtra = Field(default_factory=SampleExtra)


class FirstSampleRow(SampleRow):
    """The same as the first form had it, with fractions."""

    scores: dict[str, list[Fraction]] = Field(default_factory=dict)  # type: ignore[assignment]


class _RowCounts(Strict):
    original: Count
    effective: Count


class _FingerprintEntry(Strict):
    protocol: dict[str, Any]
    data: str
    model: dict[str, Any]
    versions: dict[str, Any]


class ResultsFile(Strict):
    """A results file; each task of `results` must be in the other tables."""

    results: dict[TaskName, dict[str, MetricValue]]
    details: dict[str, dict[str, MetricValue]] = Field(default_factory=dict)
    configs: dict[str, dict[str, Any]]
    versions: dict[str, int | str]
    num_samples: dict[str, _RowCounts] = Field(alias="n-samples")
    config: dict[str, Any]
    fingerprints: dict[str, _FingerprintEntry]
    model_name: ModelName
    date: Annotated[float, Field(ge=0, le=1e11)]
    results_format: Annotated[int, Field(ge=1, le=RESULTS_FORMAT)] = 1


class LmEvalResultsFile(Strict):
    """The keys of lm-eval's own results files that we read."""

    results: dict[TaskName, dict[str, Any]]
    configs: dict[TaskName, dict[str, Any]]
    num_samples: dict[str, _RowCounts] = Field(alias="n-samples", default_factory=dict)
    num_fewshot: dict[str, Any] = Field(alias="n-shot", default_factory=dict)
    model_name: str | None = None


class LmEvalSampleRow(Strict):
    """The keys of lm-eval's own samples that we read; each of `metrics` is a key too."""

    doc_id: Count
    doc: dict[str, Any]
    target: Any = ""
    targets: list[str] = Field(default_factory=list)
    arguments: dict[str, Any] = Field(default_factory=dict)
    resps: list[Any] = Field(default_factory=list)
    filtered_resps: list[Any] = Field(default_factory=list)
    filter: str = "none"
    metrics: list[str] = Field(default_factory=list)


class AnswerRow(Strict):
    """A stored answer."""

    text: str
    num_tokens: Count
    finish_reason: Literal["stop", "length"]


class LikelihoodRow(Strict):
    """A stored log-likelihood of a reference."""

    nll: Number
    num_tokens: Count
