"""Rows of instruction data, read from a file, a folder or the Hub, and checked one by one."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distillens_plugin.data.conversations import read_trained
from distillens_plugin.data.sources import open_source
from distillens_plugin.data.spec import DatasetSpec, key_of
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.jsonl import replace_lone_surrogates
from eval_harness.shared.text.answers import read_newlines, without_empty
from eval_harness.shared.text.messages import Conversation, conversation_column

# Of a stream: read before training, to find mistakes early and to know the data again later.
FIRST_ROWS = 1000
_MINILLM_NEWLINE = "<n>"


@dataclass(frozen=True)
class RawRow:
    """One task as text.

    Attributes:
        id: the row's own `id`, or its place in the source.
        instruction: None where the row brings a ready `prompt` or a conversation.
        input: "" if missing.
        prompt: a ready prompt, to which no template is applied.
        references: at least one text; the first one is trained on. Empty ones are left out where
            there are others.
        conversation: its messages up to the last answer that is trained on; the references are
            those of the first one.
    """

    id: str
    instruction: str | None
    input: str
    prompt: str | None
    references: list[str]
    conversation: Conversation | None = None


def read_rows(
    spec: DatasetSpec,
    *,
    where: str,
    default_split: str = "train",
    cache_dir: str | None = None,
    first_rows: int | None = None,
) -> Iterator[RawRow]:
    """The rows that a recipe's data set section names, read one by one.

    Args:
        spec: the section.
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
        cache_dir: where the `datasets` library may write; its own cache if None.
        first_rows: read no more than so many rows; None is all.
    Raises:
        DistillensError: not found, not reachable, or a row is malformed (with its file and line).
    """
    newline = spec.newline
    is_lines = spec.path.endswith((".jsonl", ".jsonl.gz")) and os.path.isfile(spec.path)
    unit = "line" if is_lines else "row"
    first = 1 if unit == "line" else 0
    num_marks = 0
    placed = islice(open_source(spec, where, default_split, cache_dir), first_rows)
    for number, (place, row) in enumerate(placed, start=first):
        if unit == "line":
            number = int(place.rpartition(":")[2])
        default_id = f"{unit} {number}"
        column = conversation_column(row)
        if column is None:
            raw = _checked(row, place=place, default_id=default_id, newline=newline)
        else:
            _check_template(spec, where, f"{place} has {column}")
            raw = _conversation(row, spec, place=place, default_id=default_id, column=column)
        num_marks += newline is None and _MINILLM_NEWLINE in (raw.prompt or "")
        yield raw
    # Of a stream it is told once, for its first rows, and not in every pass.
    if num_marks and (first_rows is not None or not spec.streaming):
        print(
            f"{where}: {num_marks} ready prompts of {spec.path} hold {_MINILLM_NEWLINE}, which is "
            f"kept as written; if it means a newline, as in MiniLLM's files, set newline: "
            f'"{_MINILLM_NEWLINE}"',
            file=sys.stderr,
        )


def _check_template(spec: DatasetSpec, where: str, found: str) -> None:
    if spec.template != "chat":
        raise DistillensError(
            f"{key_of(where, 'template')}: {found}, but {spec.template!r} has no place for turns; "
            "set it to chat, the tokenizer's own"
        )


def _conversation(
    row: dict[str, Any], spec: DatasetSpec, *, place: str, default_id: str, column: str
) -> RawRow:
    has_output = row.get("output") not in (None, "", [])
    outputs = _references(row["output"], place) if has_output else []
    trained = read_trained(
        row,
        place,
        column=column,
        newline=spec.newline,
        supervise=spec.supervise,
        outputs=[read_newlines(output, spec.newline) for output in outputs],
    )
    return RawRow(
        id=_row_id(row, default_id),
        instruction=None,
        input="",
        prompt=None,
        references=trained.references,
        conversation=trained.conversation,
    )


def _row_id(row: dict[str, Any], default_id: str) -> str:
    given_id = row.get("id")
    return default_id if given_id is None else str(given_id)


def _checked(row: dict[str, Any], *, place: str, default_id: str, newline: str | None) -> RawRow:
    task = "instruction" if row.get("instruction") is not None else "prompt"
    if row.get(task) is None or "output" not in row:
        raise DistillensError(
            f"{place}: found the keys {names(row)}; expected instruction, output and perhaps "
            "input, or prompt and output, or messages"
        )
    text = read_newlines(_text(row, task, place), newline)
    is_prompt = task == "prompt"
    return RawRow(
        id=_row_id(row, default_id),
        instruction=None if is_prompt else text,
        input="" if is_prompt else read_newlines(_text(row, "input", place), newline),
        prompt=text if is_prompt else None,
        references=[read_newlines(output, newline) for output in _references(row["output"], place)],
    )


def _text(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DistillensError(f"{place}: {key} is {shown(value)}, expected a text")
    return replace_lone_surrogates(value)


def _references(output: object, place: str) -> list[str]:
    if output is None:
        return [""]
    entries = list(output) if isinstance(output, list | tuple) else [output]
    texts = [entry for entry in entries if isinstance(entry, str)]
    if not entries or len(texts) < len(entries):
        raise DistillensError(
            f"{place}: output is {shown(output)}, expected a text or a list of texts"
        )
    return without_empty([replace_lone_surrogates(text) for text in texts])
