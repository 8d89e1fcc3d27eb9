"""The typed form of results and samples, checked when built from JSON.

A metric has one unit, for a row as for a task: x 100, as lm-eval writes ROUGE.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.results.format_version import RESULTS_FORMAT
from eval_harness.results.hashes import sample_hashes, task_hash
from eval_harness.shared.digest import digest

# lm-eval's word for a value that does not exist (the standard error of one row).
NOT_AVAILABLE = "N/A"


@dataclass(frozen=True)
class Fingerprint:
    """What a task's result depends on. Results are compared only if protocol and data agree.

    Attributes:
        protocol: every setting of the protocol in plain form (template, truncation, max_new_tokens,
            temperature, seeds, ...), so that an error can name the one that differs.
        data: digest of the benchmark's rows.
        model: what identifies the weights (path or name, digest of the files, adapter).
        versions: of packages, backend and scorer; differing versions are reported, not refused.
    """

    protocol: dict[str, Any]
    data: str
    model: dict[str, Any]
    versions: dict[str, Any]

    def digest(self) -> str:
        """Sixteen hexadecimal digits over all four parts."""
        return digest(
            {
                "protocol": self.protocol,
                "data": self.data,
                "model": self.model,
                "versions": self.versions,
            }
        )


@dataclass
class Sample:
    """One row of a benchmark with its answer for each seed.

    Attributes:
        doc_id: 0-based index of the row in the benchmark.
        doc: the row; `doc["id"]` names it in messages and pairs it between systems.
        target: the references; [] where the benchmark has none.
        arguments: the backend's request, in lm-eval's form.
        resps: the raw text of each seed.
        filtered_resps: the same cut at the protocol's stops; this is scored.
        seeds: one for each answer.
        num_tokens: generated tokens of each answer, without the end token, and with what a stop
            text cut off; None if unknown.
        finish_reason: of each answer "length", if it reached the token limit before any stop, or
            "stop"; None if unknown.
        scores: metric name to one score x 100 for each seed.
        extra: anything else worth keeping (log-likelihoods, counts); written with the rest.
    """

    doc_id: int
    doc: dict[str, Any]
    target: list[str]
    arguments: dict[str, Any]
    resps: list[str]
    filtered_resps: list[str]
    seeds: list[int]
    num_tokens: list[int] | None = None
    finish_reason: list[str] | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def row_id(self) -> str:
        """The row's own id, or its index if the id is missing or null."""
        row_id = self.doc.get("id")
        return str(self.doc_id if row_id is None else row_id)

    @property
    def prompt(self) -> str:
        """What the model was asked with; empty if the row does not say."""
        request = self.arguments.get("gen_args_0")
        return str(request.get("arg_0", "")) if isinstance(request, Mapping) else ""

    @property
    def is_choice(self) -> bool:
        """Whether lm-eval asked for likelihoods of given answers, which have no length."""
        return "output_type" in self.extra

    def to_json(self) -> dict[str, Any]:
        """The row as it is written; lm-eval's keys first, each metric also as its mean."""
        means = {name: sum(values) / len(values) for name, values in self.scores.items()}
        first = self.target[0] if self.target else ""
        return {
            "doc_id": self.doc_id,
            "doc": self.doc,
            "target": first,
            "arguments": self.arguments,
            # One request, asked once for each seed: lm-eval's repeats.
            "resps": [self.resps],
            "filtered_resps": self.filtered_resps,
            "filter": "none",
            "metrics": list(self.scores),
            **sample_hashes(self.doc, self.arguments, first),
            **means,
            "targets": self.target,
            "seeds": self.seeds,
            "scores": self.scores,
            "num_tokens": self.num_tokens,
            "finish_reason": self.finish_reason,
            **({"extra": self.extra} if self.extra else {}),
        }

    @classmethod
    def from_json(
        cls, row: Mapping[str, Any], where: str, *, results_format: int = RESULTS_FORMAT
    ) -> "Sample":
        """Reads one line of a samples file.

        Args:
            row: the line.
            where: file:line.
            results_format: of the results file beside it; scores were fractions in the first.
        Raises:
            DistillensError: a key is missing or wrong, or a list does not have one entry for each
                seed.
        """
        # Imported here: pydantic is for reading only.
        from eval_harness.results.file_models import FirstSampleRow, SampleRow
        from eval_harness.shared.files.typed_json import check

        expected = "expected a row of a samples file that eval-harness run wrote"
        model = SampleRow if results_format > 1 else FirstSampleRow
        known = check(model, row, where, expected=expected)
        unit = 1 if results_format > 1 else 100
        sample = cls(
            doc_id=known.doc_id,
            doc=known.doc,
            # Rows without references have an empty text as lm-eval's one target.
            target=known.targets if "targets" in row else known.target,
            arguments=known.arguments,
            resps=[text for texts in known.resps for text in texts],
            filtered_resps=known.filtered_resps,
            seeds=known.seeds,
            num_tokens=known.num_tokens,
            finish_reason=known.finish_reason,
            scores={
                name: [unit * score for score in values] for name, values in known.scores.items()
            },
            extra=dict(row.get("extra", {})),
        )
        sample.check(where)
        return sample

    def check(self, where: str) -> None:
        """Raises DistillensError unless every list has one entry for each seed."""
        if not self.seeds:
            raise DistillensError(
                f"{where}: row {self.row_id!r} has no seeds, expected at least one"
            )
        lists: dict[str, list[Any] | None] = {
            "resps": self.resps,
            "filtered_resps": self.filtered_resps,
            "num_tokens": self.num_tokens,
            "finish_reason": self.finish_reason,
            **{f"scores.{name}": values for name, values in self.scores.items()},
        }
        for name, values in lists.items():
            if values is not None and len(values) != len(self.seeds):
                raise DistillensError(
                    f"{where}: row {self.row_id!r} has {len(values)} entries in {name}, "
                    f"expected one for each of the {len(self.seeds)} seeds"
                )


@dataclass
class TaskResult:
    """Everything about one task of one run; `samples` is empty if they were not logged.

    Attributes:
        metrics: "rougeL,none", "rougeL_stderr,none", ...: x 100; see score.task_metrics.
        config: the task as it was run (benchmark file and settings).
        version: the benchmark's version.
        num_original: rows of the benchmark; num_effective: rows that were run (--limit).
        source: the results file it was read from; empty before it is written.
    """

    task: str
    metrics: dict[str, Any]
    config: dict[str, Any]
    version: int | str
    num_original: int
    num_effective: int
    fingerprint: Fingerprint
    samples: list[Sample] = field(default_factory=list)
    source: str = ""

    def numbers(self) -> dict[str, Any]:
        """The task's entry in `results`, as lm-eval begins it."""
        found = {key: value for key, value in self.metrics.items() if _is_number(value)}
        head = {"name": self.task, "alias": self.task, "sample_len": self.num_effective}
        return {**head, **found}

    def without_number(self) -> dict[str, Any]:
        """Lists, and values that do not exist."""
        return {key: value for key, value in self.metrics.items() if not _is_number(value)}

    def directions(self) -> dict[str, bool]:
        """Metric -> whether higher is better."""
        names = [key.partition(",")[0].removesuffix("_stderr") for key in self.metrics]
        scored = [name for name in names if f"{name}_stderr,none" in self.metrics]
        return {name: name != "nll" for name in scored}


@dataclass
class Results:
    """One run of one model over some tasks.

    Attributes:
        model_name: names the folder, and the system in comparisons.
        config: the settings of the command (model, model_args, batch_size, limit, seeds, ...).
        tasks: by task name.
        date: when it started, in seconds since the epoch.
        environment: what else lm-eval writes about a run; see `results.environment`.
    """

    model_name: str
    config: dict[str, Any]
    tasks: dict[str, TaskResult]
    date: float
    environment: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of the results file, without the samples."""
        tasks = self.tasks.values()
        return {
            "results": {task.task: task.numbers() for task in tasks},
            # What has no number: lm-eval's tools read all of `results` as numbers.
            "details": {task.task: task.without_number() for task in tasks},
            "group_subtasks": {},
            "configs": {task.task: task.config for task in tasks},
            "versions": {task.task: task.version for task in tasks},
            "n-shot": {task.task: task.config.get("num_fewshot", 0) for task in tasks},
            "higher_is_better": {task.task: task.directions() for task in tasks},
            "n-samples": {
                task.task: {"original": task.num_original, "effective": task.num_effective}
                for task in tasks
            },
            "config": self.config,
            "fingerprints": {
                task.task: {
                    "digest": task.fingerprint.digest(),
                    "protocol": task.fingerprint.protocol,
                    "data": task.fingerprint.data,
                    "model": task.fingerprint.model,
                    "versions": task.fingerprint.versions,
                }
                for task in tasks
            },
            "task_hashes": {
                task.task: task_hash(sample.to_json() for sample in task.samples)
                for task in tasks
                if task.samples
            },
            **self.environment,
            "model_name": self.model_name,
            "date": self.date,
            "results_format": RESULTS_FORMAT,
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric_names(samples: Iterable[Sample]) -> list[str]:
    """The metrics that every sample with scores has, in the order of the first."""
    rows = [sample for sample in samples if sample.scores]
    if not rows:
        return []
    return [name for name in rows[0].scores if all(name in row.scores for row in rows)]
