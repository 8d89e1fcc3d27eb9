"""A benchmark's rows: read from a local file or the Hub, each checked."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval_harness.benchmarks.definition import FIELDS, Benchmark
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.text.answers import read_newlines, without_empty
from eval_harness.shared.text.messages import Conversation, conversation_column
from eval_harness.shared.text.questions import read_question

# What a row may ask with.
_TASKS = ("instruction", "prompt", "messages")


@dataclass(frozen=True)
class Row:
    """One task of a benchmark.

    Attributes:
        doc_id: 0-based index in the file.
        row_id: the row's own id, or its index.
        instruction, input: what the template is filled with; "" in rows of the other two kinds.
            Here and in all texts below, the benchmark's mark for a newline has become one.
        prompt: a ready prompt, used only if there is no instruction.
        references: at least one; empty ones only if there are no others.
        doc: the row as it was read.
        conversation: the messages to continue, without the reference; None: not such a row.
    """

    doc_id: int
    row_id: str
    instruction: str
    input: str
    prompt: str | None
    references: tuple[str, ...]
    doc: dict[str, Any]
    conversation: Conversation | None = None


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


def load_fewshot(benchmark: Benchmark) -> list[Row]:
    """The benchmark's solved examples; the first reference of each is its answer.

    Raises:
        DistillensError: one of them is malformed.
    """
    return [
        _row(benchmark, doc, place, f"{benchmark.source}: fewshot[{place}]")
        for place, doc in enumerate(benchmark.fewshot)
    ]


def data_digest(rows: list[Row]) -> str:
    """Sixteen hexadecimal digits over everything that prompts and scores depend on."""
    return digest([_content(row) for row in rows])


def _content(row: Row) -> list[Any]:
    task = [row.row_id, row.instruction, row.input, row.prompt or "", list(row.references)]
    # Only where there is one, so that other rows keep the digests of earlier versions.
    return task if row.conversation is None else [*task, asdict(row.conversation)]


def _row(benchmark: Benchmark, doc: dict[str, Any], doc_id: int, where: str) -> Row:
    theirs = {name: benchmark.fields.get(name, name) for name in FIELDS}
    found = {name: doc.get(theirs[name]) for name in FIELDS}
    row_id = found["id"]
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise DistillensError(f"{where}: id = {shown(row_id)}, expected a string or an integer")
    row = Row(doc_id, str(doc_id if row_id is None else row_id), "", "", None, (), doc)
    column = conversation_column(found)
    if column is None:
        row = _with_task(row, found, theirs, where, benchmark.newline)
    else:
        name = theirs[column]
        question, reference = read_question(
            {**found, name: found[column]}, where, column=name, newline=benchmark.newline
        )
        row = replace(row, conversation=question)
        if reference is not None:
            return replace(row, references=(reference,))
    references = without_empty(_references(found["output"], theirs["output"], where))
    return replace(
        row, references=tuple(read_newlines(text, benchmark.newline) for text in references)
    )


def _with_task(
    row: Row, found: dict[str, Any], theirs: dict[str, str], where: str, newline: str | None
) -> Row:
    def text(name: str) -> str | None:
        value = found[name]
        if value is not None and not isinstance(value, str):
            raise DistillensError(
                f"{where}: {theirs[name]} is {type(value).__name__}, expected a string"
            )
        return value if value is None else read_newlines(value, newline)

    instruction, prompt = text("instruction"), text("prompt")
    if instruction is None and prompt is None:
        raise DistillensError(
            f"{where}: neither {' nor '.join(repr(theirs[name]) for name in _TASKS)}, found the "
            f"fields {names(sorted(row.doc))}"
        )
    return replace(
        row,
        instruction=instruction or "",
        input=text("input") or "",
        prompt=prompt if instruction is None else None,
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
