"""What results, samples and stored answers must look like in their files, checked key by key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_json import NotJsonError, decode

_LARGEST = 2**53  # every number up to here is exact in all that reads JSON
_LONGEST_SHOWN = 60

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MetricValue = Number | str | list[Number] | None


def _file_name(name: str) -> str:
    if not name or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError("a task's name is at most 200 printable characters without / and \\")
    return name


TaskName = Annotated[str, AfterValidator(_file_name)]


def _not_empty(name: str) -> str:
    # Not by min_length, for which pydantic would refuse halves of surrogate pairs.
    if not name:
        raise ValueError("a model's name is not empty")
    return name


ModelName = Annotated[str, AfterValidator(_not_empty)]


def _document(doc: dict[str, Any]) -> dict[str, Any]:
    row_id = doc.get("id")
    if isinstance(row_id, bool) or not isinstance(row_id, str | int | None):
        raise ValueError("doc.id must be a string, an integer or null")
    return doc


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    """No conversions (text is no number); keys that are not known may be there."""

    model_config = ConfigDict(strict=True, extra="allow")


class SampleExtra(_Strict):
    """What `Sample.extra` may hold of ours."""

    reference_nll: list[Number] = []
    reference_tokens: list[Count] = []


class SampleRow(_Strict):
    """One line of a samples file."""

    doc_id: Count
    doc: Annotated[dict[str, Any], AfterValidator(_document)]
    target: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    arguments: dict[str, Any]
    resps: list[Annotated[list[str], Field(min_length=1)]]
    filtered_resps: list[str]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    num_tokens: list[Count] | None = None
    finish_reason: list[str] | None = None
    scores: dict[str, list[Fraction]] = {}
    extra: SampleExtra = SampleExtra()


class _RowCounts(_Strict):
    original: Count
    effective: Count


class _FingerprintEntry(_Strict):
    protocol: dict[str, Any]
    data: str
    model: dict[str, Any]
    versions: dict[str, Any]


class ResultsFile(_Strict):
    """A results file; each task of `results` must be in the other tables."""

    results: dict[TaskName, dict[str, MetricValue]]
    configs: dict[str, dict[str, Any]]
    versions: dict[str, int | str]
    num_samples: dict[str, _RowCounts] = Field(alias="n-samples")
    config: dict[str, Any]
    fingerprints: dict[str, _FingerprintEntry]
    model_name: ModelName
    date: Annotated[float, Field(ge=0, le=1e11)]


class AnswerRow(_Strict):
    """A stored answer."""

    text: str
    num_tokens: Count
    finish_reason: Literal["stop", "length"]


class LikelihoodRow(_Strict):
    """A stored log-likelihood of a reference."""

    nll: Number
    num_tokens: Count


Model = TypeVar("Model", bound=BaseModel)


def check(model: type[Model], content: Mapping[str, Any], where: str, *, expected: str) -> Model:
    """The content as the model's object.

    Args:
        where: file, or file:line.
        expected: what the file should be, and what to do.
    Raises:
        DistillensError: the first key that is wrong, what was found, and what belongs there.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Members of a union are told apart by their types, which are no keys.
        place = ".".join(shown(part) for part in first["loc"] if not _is_type(part))
        if first["type"] == "missing":
            told = f"no key {place}"
        else:
            reason = first["msg"].removeprefix("Value error, ").partition(" or instance of")[0]
            reason = reason.replace("Input should", "it should").replace("List ", "a list ")
            told = f"{place} = {shown(first['input'], quoted=True)}: {reason}"
        raise DistillensError(f"{where}: {told}; {expected}") from None


def read_object(file: Path, *, expected: str) -> dict[str, Any]:
    """The one JSON object that a file holds.

    Raises:
        DistillensError: it cannot be read, or is none; names file, line and column.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        content = decode(text)
    except OSError as error:
        raise DistillensError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise DistillensError(f"{file}: {reason}; {expected}") from error
    except NotJsonError as error:
        _refuse(file, text, error, expected)
    if not isinstance(content, dict):
        raise DistillensError(f"{file}: found no JSON object; {expected}")
    return content


def _refuse(file: Path, text: str, error: NotJsonError, expected: str) -> NoReturn:
    line = text.count("\n", 0, error.position) + 1
    column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
    raise DistillensError(f"{file}:{line}:{column}: {error.message}; {expected}") from error


def shown(value: object, *, quoted: bool = False) -> str:
    """A value for a message, cut where it is long."""
    text = value if isinstance(value, str) and not quoted else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _is_type(part: object) -> bool:
    return isinstance(part, str) and (
        part in ("str", "int", "float", "constrained-float") or part.startswith("list[")
    )
