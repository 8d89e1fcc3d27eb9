"""One benchmark's YAML file, checked key by key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.scoring.checked_metrics import CHECKED_METRICS
from eval_harness.scoring.metrics import DEFAULT_METRICS, METRICS
from eval_harness.shared.files.strict_yaml import read_mapping
from eval_harness.shared.near import near_names
from eval_harness.shared.text.stop_texts import read_stop_texts
from eval_harness.shared.text.template_table import check_template

FIELDS = (
    "id",
    "instruction",
    "input",
    "output",
    "prompt",
    "messages",
    "conversations",
    "tools",
    "system",
)
# Whether rows have references to compare with.
REFERENCES = ("all", "some", "none")
# Whose files --predict_only writes; see `judge_files`.
JUDGE_FORMATS = ("alpaca_eval", "mt_bench", "ifeval")
_HUB_KEYS = ("repo", "file", "revision")


@dataclass(frozen=True)
class HubFile:
    """A file of rows in a data set repository of the Hugging Face Hub."""

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.revision}/{self.file}"


@dataclass(frozen=True)
class Benchmark:
    """The content of a benchmark file.

    Attributes:
        task: the name for --tasks and in results.
        source: the file it was read from.
        description: one line for `ls`.
        version: goes into the results.
        hub: where the rows are downloaded from; None: `path` only.
        path: a local file of rows, absolute; preferred to `hub` if both are given.
        template: replaces the protocol's prompt template; None: the protocol's.
        metrics: of `METRICS`, which compare with references, and of `CHECKED_METRICS`.
        fields: our names of the row's fields -> the file's; see `row_fields`.
        newline: the rows' mark for a newline, in prompts and references; models trained on such
            rows write it too. None: no such mark.
        fewshot: solved examples for --num_fewshot, as the file has them.
        until: answers end before the first of these texts; (): they run on; None: where another
            prompt of the template begins. A protocol's own `until` goes before it.
        references: which rows have some: "all", "some" or "none"; the others are not compared.
        judge_format: whose files --predict_only writes beside the samples; None: nobody's.
    """

    task: str
    source: Path
    description: str = ""
    version: int = 1
    hub: HubFile | None = None
    path: Path | None = None
    template: str | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    fields: dict[str, str] = field(default_factory=dict)
    newline: str | None = None
    fewshot: tuple[dict[str, Any], ...] = ()
    until: tuple[str, ...] | None = None
    references: str = "all"
    judge_format: str | None = None

    def location(self) -> str:
        """Where the rows come from, for people."""
        return str(self.path) if self.path else str(self.hub)

    def to_json(self) -> dict[str, Any]:
        """The benchmark for the results file."""
        settings: dict[str, Any] = {
            "task": self.task,
            "description": self.description,
            "version": self.version,
            "hub": str(self.hub) if self.hub else None,
            "path": str(self.path) if self.path else None,
            "template": self.template,
            "metrics": list(self.metrics),
            "fields": self.fields,
            "newline": self.newline,
        }
        # Only where they are set, so that other results look as before.
        if self.until is not None:
            settings["until"] = list(self.until)
        if self.references != "all":
            settings["references"] = self.references
        if self.judge_format is not None:
            settings["judge_format"] = self.judge_format
        return settings


_KEYS = (
    "task",
    "description",
    "version",
    "hub",
    "path",
    "template",
    "metrics",
    "fields",
    "newline",
    "fewshot",
    "until",
    "references",
    "judge_format",
)


def load_benchmark(source: Path) -> Benchmark:
    """Reads and checks a benchmark file.

    Raises:
        DistillensError: not YAML, an unknown key (with near names), a wrong value, or no location.
    """
    content, _ = read_mapping(str(source), what="benchmark", keys=f"{_KEYS[0]}: and path:")
    for key in content:
        if key not in _KEYS:
            raise DistillensError(
                f"{source}: key {key!r} is not known, expected {', '.join(_KEYS)}"
                f"{near_names(str(key), _KEYS)}"
            )
    task = _typed(source, content, "task", str, None)
    if not task or len(task) > 100 or not task.isprintable() or set(task) & set(" ,/\\"):
        shown = repr(task) if not task or len(task) <= 60 else f"{task[:60]!r}..."
        raise DistillensError(
            f"{source}: task = {shown}, expected a name without space, comma or /, of at most 100 "
            "characters"
        )
    template = _typed(source, content, "template", str, None)
    if template is not None:
        try:
            check_template(template)
        except DistillensError as error:
            raise DistillensError(f"{source}: {error}") from error
    path = _typed(source, content, "path", str, None)
    references = _one_of(source, content, "references", REFERENCES) or "all"
    benchmark = Benchmark(
        task=task,
        source=source,
        description=" ".join(_typed(source, content, "description", str, "").split()),
        version=_typed(source, content, "version", int, 1),
        hub=_hub(source, content),
        path=(source.parent / path).resolve() if path else None,
        template=template,
        metrics=_metrics(source, content, references),
        fields=_fields(source, content),
        newline=_newline(source, content),
        fewshot=_fewshot(source, content),
        until=_until(source, content),
        references=references,
        judge_format=_one_of(source, content, "judge_format", JUDGE_FORMATS),
    )
    if benchmark.hub is None and benchmark.path is None:
        raise DistillensError(f"{source}: found neither path nor hub; give one, for the rows")
    return benchmark


def _typed(source: Path, content: dict[str, Any], key: str, kind: type, default: object) -> Any:
    value = content.get(key, default)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DistillensError(
            f"{source}: {key} = {value!r} is {type(value).__name__}, expected {kind.__name__}"
        )
    return value


def _newline(source: Path, content: dict[str, Any]) -> str | None:
    mark = _typed(source, content, "newline", str, None)
    if mark is not None and not mark.strip():
        raise DistillensError(f"{source}: newline = {mark!r}, expected a mark such as '<n>'")
    return mark


def _one_of(source: Path, content: dict[str, Any], key: str, known: tuple[str, ...]) -> str | None:
    value = content.get(key)
    if value is not None and value not in known:
        raise DistillensError(f"{source}: {key} = {value!r}, expected {', '.join(known)}")
    return value


def _until(source: Path, content: dict[str, Any]) -> tuple[str, ...] | None:
    value = content.get("until")
    return None if value is None else read_stop_texts(value, f"{source}: until")


def _fewshot(source: Path, content: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    rows = _typed(source, content, "fewshot", list, [])
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DistillensError(
                f"{source}: fewshot[{place}] is {type(row).__name__}, expected a row such as "
                "{instruction: ..., output: ...}"
            )
    return tuple(rows)


def _hub(source: Path, content: dict[str, Any]) -> HubFile | None:
    hub = _typed(source, content, "hub", dict, None)
    if hub is None:
        return None
    for key, value in hub.items():
        if key not in _HUB_KEYS:
            raise DistillensError(
                f"{source}: hub.{key} is not known, expected {', '.join(_HUB_KEYS)}"
                f"{near_names(str(key), _HUB_KEYS)}"
            )
        if not isinstance(value, str):
            raise DistillensError(f"{source}: hub.{key} = {value!r}, expected a string")
    if "repo" not in hub or "file" not in hub:
        raise DistillensError(f"{source}: hub has {sorted(hub)}, expected repo and file")
    return HubFile(**hub)


def _metrics(source: Path, content: dict[str, Any], references: str) -> tuple[str, ...]:
    needed = () if references == "none" else DEFAULT_METRICS
    metrics = _typed(source, content, "metrics", list, list(needed))
    known = (*(METRICS if needed else ()), *CHECKED_METRICS)
    for metric in metrics:
        if metric not in known:
            raise DistillensError(
                f"{source}: metric {metric!r} is not known{'' if needed else ' without references'}"
                f", expected {', '.join(known)}{near_names(str(metric), known)}"
            )
    if any(name not in metrics for name in needed):
        raise DistillensError(
            f"{source}: metrics = {metrics}, expected {' and '.join(DEFAULT_METRICS)} among them"
        )
    return tuple(metrics)


def _fields(source: Path, content: dict[str, Any]) -> dict[str, str]:
    fields = _typed(source, content, "fields", dict, {})
    for name, value in fields.items():
        if name not in FIELDS:
            raise DistillensError(
                f"{source}: fields.{name} is not known, expected {', '.join(FIELDS)}"
                f"{near_names(str(name), FIELDS)}"
            )
        if not isinstance(value, str):
            raise DistillensError(f"{source}: fields.{name} = {value!r}, expected a field's name")
    return dict(fields)
