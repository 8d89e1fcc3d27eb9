"""Results and samples that lm-evaluation-harness wrote.

A task's samples file has a row for each document and filter. We read the metrics whose value is
the mean of the rows' values: the others (perplexities, corpus BLEU) have no rows to pair.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.results.file_models import LmEvalResultsFile, LmEvalSampleRow
from eval_harness.results.folder import results_files
from eval_harness.results.schema import Sample
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.files.typed_json import check, read_object, shown

_EXPECTED = "expected a results file of lm-eval with samples (--log_samples)"
# Tasks of `export-lm-eval` have this before the benchmark's name, and our scores.
EXPORTED = "distillens_"


@dataclass
class LmEvalTask:
    """One task of a run of lm-eval.

    Attributes:
        samples: one for each document, with one "seed".
        num_fewshot, generation_kwargs: how it was asked.
        left_out: metrics whose value is not a mean over rows.
        source: the results file.
        is_exported: by `export-lm-eval`, so with our scores.
    """

    samples: list[Sample]
    num_fewshot: Any
    generation_kwargs: dict[str, Any]
    left_out: list[str] = field(default_factory=list)
    source: str = ""
    is_exported: bool = False


@dataclass
class LmEvalResults:
    """One model's tasks, the newest of each."""

    model_name: str
    tasks: dict[str, LmEvalTask]


def is_lm_eval(path: str | os.PathLike[str]) -> bool:
    """Whether the newest results file at `path` is lm-eval's, not ours.

    Raises:
        DistillensError: no results file, or one that is not JSON.
    """
    newest = read_object(results_files(Path(path))[-1], expected=_EXPECTED)
    ours = {"fingerprints", "results_format"} & set(newest)
    return not ours and "lm_eval_version" in newest


def read_lm_eval(path: str | os.PathLike[str], *, needs_scores: bool = True) -> LmEvalResults:
    """Reads what lm-eval wrote: a results file, a model's folder, or an output path.

    Args:
        needs_scores: false takes answers alone too, such as those of its --predict_only.
    Raises:
        DistillensError: files of ours among them, samples that were not logged, a task without a
            metric that can be paired by row, or malformed files.
    """
    found: LmEvalResults | None = None
    for file in reversed(results_files(Path(path))):
        content = read_object(file, expected=_EXPECTED)
        if "fingerprints" in content:
            raise DistillensError(
                f"{file}: eval-harness wrote it, but lm-eval wrote newer results beside it; name "
                "one of the files"
            )
        known = check(LmEvalResultsFile, content, str(file), expected=_EXPECTED)
        found = found or LmEvalResults(known.model_name or file.parent.name, {})
        for name in known.configs:
            # Groups have no rows of their own.
            if name in known.results and name.removeprefix(EXPORTED) not in found.tasks:
                found.tasks[name.removeprefix(EXPORTED)] = _task(
                    name, known, file, needs_scores=needs_scores
                )
    assert found is not None, "results_files gives at least one"
    if not found.tasks:
        raise DistillensError(f"{os.fspath(path)}: no task in it, expected at least one")
    return found


def _task(name: str, known: LmEvalResultsFile, file: Path, *, needs_scores: bool) -> LmEvalTask:
    time = file.stem.rpartition("_")[2]
    path = file.parent / f"samples_{name}_{time}.jsonl"
    if not path.exists():
        raise DistillensError(f"{file}: no {path.name} beside it; run lm_eval with --log_samples")
    config = known.configs[name]
    output_type = str(config.get("output_type", "generate_until"))
    filters: dict[str, dict[int, LmEvalSampleRow]] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        found = check(LmEvalSampleRow, row, where, expected="expected a sample of lm-eval")
        rows = filters.setdefault(found.filter, {})
        if found.doc_id in rows:
            raise DistillensError(f"{where}: doc_id {found.doc_id} is there twice; run it again")
        rows[found.doc_id] = found
    counts = known.num_samples.get(name)
    first = next(iter(filters.values()), {})
    if not first or (counts is not None and counts.effective != len(first)):
        expected = counts.effective if counts is not None else "at least one"
        raise DistillensError(f"{path}: found {len(first)} documents, expected {expected}")
    for filter_name, rows in filters.items():
        if rows.keys() != first.keys():
            raise DistillensError(
                f"{path}: the filters {shown(next(iter(filters)))} and {shown(filter_name)} have "
                "different documents; run it again"
            )
    samples = {doc_id: _sample(row, output_type) for doc_id, row in first.items()}
    left_out = _add_scores(samples, filters, known.results[name])
    if needs_scores and not any(sample.scores for sample in samples.values()):
        raise DistillensError(
            f"{file}: {shown(name)} has no metric that is a mean over rows, so rows cannot be "
            "paired; name runs of another task"
        )
    _make_ids_unique(list(samples.values()))
    kwargs = config.get("generation_kwargs")
    return LmEvalTask(
        list(samples.values()),
        known.num_fewshot.get(name),
        kwargs if isinstance(kwargs, dict) else {},
        left_out,
        str(file),
        name.startswith(EXPORTED),
    )


def _sample(row: LmEvalSampleRow, output_type: str) -> Sample:
    is_text = output_type == "generate_until"
    target = row.target if isinstance(row.target, str) else json.dumps(row.target)
    answer = _text(row.filtered_resps)
    if is_text and row.filter != "none":
        # Such filters take a number or a letter out of the answer, which is the model's text.
        answer = _first(row.resps)
    return Sample(
        doc_id=row.doc_id,
        doc=row.doc,
        target=row.targets or [target],
        arguments=row.arguments,
        resps=[_text(row.resps)],
        filtered_resps=[answer],
        seeds=[0],
        extra={} if is_text else {"output_type": output_type},
    )


def _first(value: Any) -> str:
    """Of a document's answers."""
    while isinstance(value, list) and value:
        value = value[0]
    return _text(value)


def _text(value: Any) -> str:
    """The answer in lists of one; several log-likelihoods as JSON."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return value if isinstance(value, str) else json.dumps(value)


def _add_scores(
    samples: dict[int, Sample],
    filters: dict[str, dict[int, LmEvalSampleRow]],
    results: dict[str, Any],
) -> list[str]:
    """Gives the samples their scores, and returns the metrics that are left out."""
    left_out = []
    for filter_name, rows in filters.items():
        names = dict.fromkeys(name for row in rows.values() for name in row.metrics)
        for name in names:
            values = [(row.model_extra or {}).get(name) for row in rows.values()]
            shown_name = name if filter_name == "none" else f"{name} ({filter_name})"
            if not _is_mean(values, results.get(f"{name},{filter_name}")):
                left_out.append(shown_name)
                continue
            for sample, value in zip(samples.values(), _by(rows, values, samples), strict=True):
                sample.scores[shown_name] = [value]
    return left_out


def _by(
    rows: dict[int, LmEvalSampleRow], values: list[Any], samples: dict[int, Sample]
) -> list[float]:
    """The values in the samples' order; filters may order documents otherwise."""
    found = dict(zip(rows, values, strict=True))
    return [float(found[doc_id]) for doc_id in samples]


def _is_mean(values: list[Any], result: object) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values) or not isinstance(result, int | float):
        return False
    return math.isclose(math.fsum(numbers) / len(numbers), result, rel_tol=1e-6, abs_tol=1e-9)


def _make_ids_unique(samples: list[Sample]) -> None:
    """Rows go by their own id if it names one row, or else by their index, in all rows."""
    ids = [sample.doc.get("id") for sample in samples]
    usable = all(isinstance(i, str | int) and not isinstance(i, bool) for i in ids)
    if not usable or len({str(i) for i in ids}) < len(ids):
        for sample in samples:
            sample.doc = {**sample.doc, "id": sample.doc_id}
