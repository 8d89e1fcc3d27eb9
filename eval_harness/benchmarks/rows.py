"""A benchmark's rows: read from a local file or the Hub, each checked."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval_harness.benchmarks.definition import FIELDS, Benchmark
from eval_harness.benchmarks.row_fields import field_names, read_field
from eval_harness.errors import DistillensError
from eval_harness.scoring.checked_metrics import checked_fields
from eval_harness.shared.digest import digest
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.json_rows import read_rows
from eval_harness.shared.text.answers import read_newlines, without_empty
from eval_harness.shared.text.messages import Conversation, conversation_column, read_conversation
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
        references: at least one, unless the benchmark says that rows lack them; empty ones only if
            there are no others.
        doc: the row as it was read.
        conversation: the messages to continue, without the reference; None: not such a row.
        checked: what the benchmark's checked metrics read of `doc`; None: it has no such metrics.
    """

    doc_id: int
    row_id: str
    instruction: str
    input: str
    prompt: str | None
    references: tuple[str, ...]
    doc: dict[str, Any]
    conversation: Conversation | None = None
    checked: dict[str, Any] | None = None


def load_rows(benchmark: Benchmark) -> list[Row]:
    """All rows of a benchmark.

    Raises:
        DistillensError: the file cannot be downloaded or is empty, or a row is malformed
            (file:line).
    """
    file = benchmark.path or _download(benchmark)
    rows: list[Row] = []
    places: dict[str, str] = {}
    for place, doc in read_rows(file):
        row = read_row(benchmark, doc, len(rows), place.where)
        if row.row_id in places:
            raise DistillensError(
                f"{place.where}: id {shown(row.row_id)} is also on {places[row.row_id]}; "
                "ids must differ (a row without an id gets its index, from 0)"
            )
        places[row.row_id] = place.short
        rows.append(row)
    return rows


def load_fewshot(benchmark: Benchmark) -> list[Row]:
    """The benchmark's solved examples; each has a reference, whose first is its answer.

    Raises:
        DistillensError: one of them is malformed.
    """
    solved = replace(benchmark, references="all")
    return [
        read_row(solved, doc, place, f"{benchmark.source}: fewshot[{place}]")
        for place, doc in enumerate(benchmark.fewshot)
    ]


def data_digest(rows: list[Row]) -> str:
    """Sixteen hexadecimal digits over everything that prompts and scores depend on."""
    return digest([_content(row) for row in rows])


def _content(row: Row) -> list[Any]:
    task: list[Any] = [
        row.row_id,
        row.instruction,
        row.input,
        row.prompt or "",
        list(row.references),
    ]
    # Only where there is one, so that other rows keep the digests of earlier versions.
    if row.conversation is not None:
        task.append(asdict(row.conversation))
    return task if row.checked is None else [*task, row.checked]


def read_row(benchmark: Benchmark, doc: dict[str, Any], doc_id: int, where: str) -> Row:
    """One row, checked.

    Args:
        benchmark: whose `fields` and `newline` the row has.
        where: file:line, for errors.
    Raises:
        DistillensError: it is malformed.
    """
    theirs = {name: benchmark.fields.get(name, name) for name in FIELDS}
    # A field that the benchmark gives another meaning has not its usual one too.
    taken = {part for name in benchmark.fields.values() for part in field_names(name)}
    read = [name for name in FIELDS if name in benchmark.fields or name not in taken]
    found = {name: read_field(doc, theirs[name]) if name in read else None for name in FIELDS}
    row_id = found["id"]
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise DistillensError(f"{where}: id = {shown(row_id)}, expected a string or an integer")
    row = Row(doc_id, str(doc_id if row_id is None else row_id), "", "", None, (), doc)
    names_read = checked_fields(benchmark.metrics)
    if names_read:
        row = replace(row, checked={name: doc.get(name) for name in names_read})
    column = conversation_column(found)
    if column is None:
        row = _with_task(row, found, theirs, where, benchmark.newline)
    else:
        question, reference = _with_turns(benchmark, found, where, theirs[column], found[column])
        row = replace(row, conversation=question)
        if reference is not None:
            return replace(row, references=(reference,))
    references = _reference_texts(benchmark, found["output"], theirs["output"], where)
    return replace(
        row, references=tuple(read_newlines(text, benchmark.newline) for text in references)
    )


def _with_turns(
    benchmark: Benchmark, found: dict[str, Any], where: str, name: str, turns: object
) -> tuple[Conversation, str | None]:
    """The question, and the reference among the turns if there is one."""
    row = {**found, name: turns}
    if benchmark.references != "all":
        talk = read_conversation(row, where, column=name, newline=benchmark.newline)
        if benchmark.references == "none" or talk.messages[-1].role != "assistant":
            return talk, None
    return read_question(row, where, column=name, newline=benchmark.newline)


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


def _reference_texts(benchmark: Benchmark, output: object, name: str, where: str) -> list[str]:
    if benchmark.references == "all":
        return without_empty(_references(output, name, where))
    if benchmark.references == "none" or output in (None, []):
        return []
    return [text for text in _references(output, name, where) if text.strip()]


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
