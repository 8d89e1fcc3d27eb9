"""Rows of instruction data as they stand in a file, a folder or on the Hub, checked one by one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.jsonl import read_jsonl, replace_lone_surrogates

_BUILDERS = {".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class RawRow:
    """One task as text.

    Attributes:
        id: the row's own `id`, or its place in the source.
        instruction: None where the row brings a ready `prompt`.
        input: "" where there is none.
        prompt: a ready prompt, to which no template is applied.
        references: at least one text; the first one is trained on.
    """

    id: str
    instruction: str | None
    input: str
    prompt: str | None
    references: list[str]


def read_rows(spec: Any, *, where: str, default_split: str = "train") -> Iterator[RawRow]:
    """The rows that a recipe's data set section names, read one by one.

    Args:
        spec: a `DatasetSpec` (or the recipe's section with the same fields).
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
    Raises:
        DistillensError: not found, not reachable, or a row is malformed (with its file and line).
    """
    path = Path(spec.path)
    if path.suffix == ".jsonl":
        _refuse_hub_options(spec, where, path)
        numbered: Iterator[tuple[int, dict[str, Any]]] = read_jsonl(path)
        label, unit = f"{spec.path}:", "line"
    else:
        numbered = enumerate(_load_with_datasets(spec, where, default_split))
        label, unit = f"{spec.path} row ", "row"
    for number, row in islice(numbered, spec.num_rows):
        yield _checked(row, place=f"{label}{number}", default_id=f"{unit} {number}")


def _checked(row: dict[str, Any], *, place: str, default_id: str) -> RawRow:
    task = "instruction" if row.get("instruction") is not None else "prompt"
    if row.get(task) is None or "output" not in row:
        found = ", ".join(map(str, row)) or "nothing"
        raise DistillensError(
            f"{place}: found the keys {found}; expected instruction, output and perhaps input, "
            "or prompt and output"
        )
    given_id = row.get("id")
    row_id = default_id if given_id is None else str(given_id)
    references = _references(row["output"], place)
    if task == "prompt":
        # The MiniLLM releases write newlines as <n> in their ready prompts and answers.
        prompt = _text(row, "prompt", place).replace("<n>", "\n")
        references = [text.replace("<n>", "\n") for text in references]
        return RawRow(row_id, None, "", prompt, references)
    return RawRow(
        row_id, _text(row, "instruction", place), _text(row, "input", place), None, references
    )


def _text(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DistillensError(f"{place}: {key} is {_shown(value)}, expected a text")
    return replace_lone_surrogates(value)


def _references(output: Any, place: str) -> list[str]:
    texts = output if isinstance(output, list | tuple) else [output or ""]
    if not all(isinstance(text, str) for text in texts):
        raise DistillensError(
            f"{place}: output is {_shown(output)}, expected a text or a list of texts"
        )
    return [replace_lone_surrogates(text) for text in texts]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _refuse_hub_options(spec: Any, where: str, path: Path) -> None:
    for option in ("name", "split", "data_files"):
        if getattr(spec, option, None) is not None:
            raise DistillensError(
                f"{where}.{option}: {path} is one file, which has no {option}; delete the key"
            )


def _load_with_datasets(spec: Any, where: str, default_split: str) -> Any:
    """A data set of the `datasets` library: the Hub's, a local folder's, or another file format."""
    path = Path(spec.path)
    if not path.exists() and (path.suffix in _BUILDERS or spec.path.startswith((".", os.sep, "~"))):
        raise DistillensError(f"{where}.path: {spec.path} does not exist")
    if path.is_file():
        _refuse_hub_options(spec, where, path)
        if path.suffix not in _BUILDERS:
            raise DistillensError(
                f"{where}.path: {spec.path} ends in {path.suffix!r}, expected .jsonl or one of "
                f"{', '.join(_BUILDERS)}"
            )
    # Imported here: it takes a second that a plain .jsonl file should not cost.
    import datasets

    data_files = getattr(spec, "data_files", None)
    # A single file makes a single split, which `datasets` calls train.
    split = spec.split or ("train" if data_files or path.is_file() else default_split)
    try:
        if path.is_file():
            return datasets.load_dataset(
                _BUILDERS[path.suffix], data_files=str(path), split="train"
            )
        if (path / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(path))[split]
        if (path / "state.json").exists():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(spec.path, spec.name, data_files=data_files, split=split)
    except Exception as error:  # whatever a Hub, a network or a file format can raise
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        advice = (
            f"has it the split {split!r}?"
            if path.exists()
            else "expected a .jsonl file, a folder, or a data set on the Hub that can be reached"
        )
        raise DistillensError(
            f"{where}.path: {spec.path!r} (split {split!r}) cannot be loaded: "
            f"{reason.strip()}; {advice}"
        ) from error
