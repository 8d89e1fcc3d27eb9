"""The files of a run's folder, as a report reads them: checked, and taken as far as they go."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_json import NotJsonError, decode
from eval_harness.shared.files.typed_json import Count, Number, Strict, check, read_object

_EXPECTED = "expected what a run writes there; restore the file from a copy, or delete it"
Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
Checked = TypeVar("Checked", bound=Strict)


class MetricsLine(Strict):
    """A line of metrics.jsonl: numbers under the names that training gave them."""

    step: Count

    @property
    def numbers(self) -> dict[str, float]:
        """All its numbers; what is none, and truth values, are left out."""
        found: dict[str, float] = {"step": self.step}
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name] = float(value)
        return found


class LayerReadings(Strict):
    """What the lens reads from one model: a number for each layer, means over positions.

    Attributes:
        entropy, kl_from_final: nats.
        true_rank: of the true next token, from 1; the median.
        top1: share of positions where the layer's first token is the true one.
    """

    layers: list[Count] = Field(min_length=1)
    entropy: list[Number]
    kl_from_final: list[Number] = Field(default_factory=list)
    true_rank: list[Number] = Field(default_factory=list)
    top1: list[Share] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_for_each_layer(self) -> "LayerReadings":
        for name in ("entropy", "kl_from_final", "true_rank", "top1"):
            values = getattr(self, name)
            if len(values) != len(self.layers) and (values or name == "entropy"):
                raise ValueError(f"{name} has {len(values)} numbers for {len(self.layers)} layers")
        return self


class ConfidenceReadings(Strict):
    """Where the student is surer, or less sure, than the teacher; a number for each layer pair.

    Attributes:
        surer_share, less_sure_share: of positions.
        surer_by, less_sure_by: mean difference of entropy over those positions, nats.
    """

    pairs: list[Pair]
    surer_share: list[Share]
    surer_by: list[Number]
    less_sure_share: list[Share]
    less_sure_by: list[Number]

    @model_validator(mode="after")
    def _one_for_each_pair(self) -> "ConfidenceReadings":
        for name in ("surer_share", "surer_by", "less_sure_share", "less_sure_by"):
            if len(getattr(self, name)) != len(self.pairs):
                raise ValueError(f"{name} has another length than the {len(self.pairs)} pairs")
        return self


class LensLine(Strict):
    """A line of lens.jsonl: one measurement. The teacher, who does not change, is in the first."""

    step: Count
    norm: str = "identity"
    seconds: Number | None = None
    num_positions: Count
    student: LayerReadings
    teacher: LayerReadings | None = None
    confidence: ConfidenceReadings | None = None


class AnswerLine(Strict):
    """A line of answers.jsonl: what the student answered to a row at a step."""

    step: Count
    row: str | Count
    prompt: str
    answer: str
    reference: str | None = None


class SummaryFile(Strict):
    """What a report reads of summary.json."""

    num_steps: Count
    seed: int | None = None
    best_step: Count | None = None
    best_score: Number | None = None
    best_by: str | None = None
    seconds: Number | None = None
    train_seconds: Number | None = None
    tokens_per_s: Number | None = None
    peak_memory_bytes: Count | None = None
    num_processes: Count | None = None
    stopped_early: str | None = None
    report_seconds: Number | None = None
    report_share: Number | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class DivergedFile(Strict):
    """What a report reads of diverged.json."""

    reason: str


class PairLists(Strict):
    """Layer pairs as a recipe writes them."""

    student: list[Count]
    teacher: list[Count]
    mean: Number | None = None

    @property
    def shown(self) -> str:
        return ", ".join(f"{a}-{b}" for a, b in zip(self.student, self.teacher, strict=False))


class ChosenLayers(Strict):
    """The layer pairs of one loss term, and the matrix that they were chosen from.

    Attributes:
        values: [student layer, teacher layer], in nats.
        by_depth: what equal relative depth would have given.
    """

    measured: PairLists
    mean: Number
    by_depth: PairLists | None = None
    student_layers: list[Count]
    teacher_layers: list[Count]
    values: list[list[Number]]
    divergence: str
    num_positions: Count
    seconds: Number

    @model_validator(mode="after")
    def _is_rectangular(self) -> "ChosenLayers":
        sizes = {len(row) for row in self.values} - {len(self.teacher_layers)}
        if sizes or len(self.values) != len(self.student_layers):
            raise ValueError("values have other sizes than the lists of layers")
        return self


class PairsFile(Strict):
    """layer_pairs.json: layer pairs that were chosen by measurement, by loss term."""

    terms: dict[str, ChosenLayers]


def read_growing(path: Path, model: type[Checked]) -> list[Checked]:
    """The lines of a file that may still be written; empty if it does not exist.

    What follows the last line feed counts if it is a whole object. A run that was killed, or one
    that writes right now, leaves half a line there, which is passed over.

    Raises:
        DistillensError: a line before is no JSON object, or lacks what is expected; names it.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DistillensError(f"{path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = decode(line.decode("utf-8"))
        except (UnicodeDecodeError, NotJsonError) as error:
            if number == len(lines):
                break
            place = f"{path}:{number}"
            if isinstance(error, NotJsonError):
                place, reason = f"{place}:{error.position + 1}", error.message
            else:
                reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
            raise DistillensError(f"{place}: {reason}; {_EXPECTED}") from error
        if not isinstance(content, dict):
            if number == len(lines):
                break
            raise DistillensError(f"{path}:{number}: found no JSON object; {_EXPECTED}")
        found.append(check(model, content, f"{path}:{number}", expected=_EXPECTED))
    return found


def read_whole(path: Path, model: type[Checked]) -> Checked | None:
    """The object in a file that a run replaces as a whole; None if it does not exist.

    Raises:
        DistillensError: it is damaged; names file, line and key.
    """
    if not path.is_file():
        return None
    content = read_object(path, expected=_EXPECTED)
    return check(model, content, str(path), expected=_EXPECTED)
