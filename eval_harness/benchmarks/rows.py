"""A benchmark's rows: read from a local file or the Hub, each checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.benchmarks.definition import Benchmark
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.text.answers import read_newlines, without_empty


@dataclass(frozen=True)
class Row:
    """One task of a benchmark.

    Attributes:
        doc_id: 0-based index in the file.
        row_id: the row's own id, or its index.
        instruction, input: what the template is filled with; "" if only `prompt` is given. Here and
            in all texts below, the benchmark's mark for a newline has become one.
        prompt: a ready prompt, used only if there is no instruction.
        references: at least one; empty ones only if there are no others.
        doc: the row as it was read.
    """

    doc_id: int
    row_id: str
    instruction: str
    input: str
    prompt: str | None
    references: tuple[str, ...]
    doc: dict[str, Any]


def load_rows(benchmark: Benchmark) -> list[Row]:
    """All rows of a benchmark.

    Raises:
        DistillensError: the file cannot be downloaded or is empty, or a row is malformed
            (file:line).
    """
    file = benchmark.path or _download(benchmark)
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for line, doc in read_jsonl(file):
        row = _row(benchmark, doc, len(rows), f"{file}:{line}")
        if row.row_id in lines:
            raise DistillensError(
                f"{file}:{line}: id {shown(row.row_id)} is also on line {lines[row.row_id]}; "
                "ids must differ (a row without an id gets its index, from 0)"
            )
        lines[row.row_id] = line
        rows.append(row)
    return rows


def data_digest(rows: list[Row]) -> str:
    """Sixteen hexadecimal digits over everything that prompts and scores depend on."""
    return digest(
        [
            [row.row_id, row.instruction, row.input, row.prompt or "", list(row.references)]
            for row in rows
        ]
    )


def _row(benchmark: Benchmark, doc: dict[str, Any], doc_id: int, where: str) -> Row:
    def value(name: str) -> Any:
        return doc.get(benchmark.fields.get(name, name))

    def text(name: str) -> str | None:
        found = value(name)
        if found is not None and not isinstance(found, str):
            raise DistillensError(
                f"{where}: {benchmark.fields.get(name, name)} is {type(found).__name__}, "
                "expected a string"
            )
        return found if found is None else read_newlines(found, benchmark.newline)

    instruction, prompt = text("instruction"), text("prompt")
    if instruction is None and prompt is None:
        raise DistillensError(
            f"{where}: neither {benchmark.fields.get('instruction', 'instruction')!r} nor "
            f"{benchmark.fields.get('prompt', 'prompt')!r}, found the fields {names(sorted(doc))}"
        )
    row_id = value("id")
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise DistillensError(f"{where}: id = {shown(row_id)}, expected a string or an integer")
    return Row(
        doc_id=doc_id,
        row_id=str(doc_id if row_id is None else row_id),
        instruction=instruction or "",
        input=text("input") or "",
        prompt=prompt if instruction is None else None,
        references=tuple(
            read_newlines(reference, benchmark.newline)
            for reference in without_empty(
                _references(value("output"), benchmark.fields.get("output", "output"), where)
            )
        ),
        doc=doc,
    )


def _references(output: object, name: str, where: str) -> tuple[str, ...]:
    references = [output] if isinstance(output, str) else output
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DistillensError(
            f"{where}: {name} = {shown(output)}, expected a string or a list of them"
        )
    if not references:
        raise DistillensError(f"{where}: {name} is an empty list, expected at least one reference")
    return tuple(references)


def _download(benchmark: Benchmark) -> Path:
    from huggingface_hub import hf_hub_download

    hub = benchmark.hub
    assert hub is not None, "load_benchmark makes sure of path or hub"
    try:
        local = hf_hub_download(hub.repo, hub.file, revision=hub.revision, repo_type="dataset")
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillensError(
            f"task {benchmark.task}: {hub} cannot be downloaded ({type(error).__name__}: "
            f"{reason}); give a local copy with --data {benchmark.task}=PATH"
        ) from error
    return Path(local)
