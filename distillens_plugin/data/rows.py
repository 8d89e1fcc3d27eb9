"""Rows of instruction data, read from a file, a folder or the Hub, and checked one by one."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distillens_plugin.data.row_files import READERS
from distillens_plugin.data.spec import DatasetSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.jsonl import replace_lone_surrogates
from eval_harness.shared.text.answers import read_newlines, without_empty

_SUFFIXES = (*READERS, ".parquet")
_SLICE = re.compile(r"(\w+)(?:\[(-?\d{0,18}):(-?\d{0,18})\])?")
_MINILLM_NEWLINE = "<n>"
# Names of `datasets`' own readers rather than of the Hub: pickled tables and Python objects.
_CODE_FORMATS = ("pandas", "generator", "spark", "sql", "cache")


@dataclass(frozen=True)
class RawRow:
    """One task as text.

    Attributes:
        id: the row's own `id`, or its place in the source.
        instruction: None where the row brings a ready `prompt`.
        input: "" if missing.
        prompt: a ready prompt, to which no template is applied.
        references: at least one text; the first one is trained on. Empty ones are left out where
            there are others.
    """

    id: str
    instruction: str | None
    input: str
    prompt: str | None
    references: list[str]


def read_rows(
    spec: DatasetSpec, *, where: str, default_split: str = "train", cache_dir: str | None = None
) -> Iterator[RawRow]:
    """The rows that a recipe's data set section names, read one by one.

    Args:
        spec: the section.
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
        cache_dir: where the `datasets` library may write; its own cache if None.
    Raises:
        DistillensError: not found, not reachable, or a row is malformed (with its file and line).
    """
    newline = spec.newline
    unit = "line" if spec.path.endswith(".jsonl") and os.path.isfile(spec.path) else "row"
    first = 1 if unit == "line" else 0
    num_marks = 0
    placed = _placed_rows(spec, where, default_split, cache_dir)
    for number, (place, row) in enumerate(islice(placed, spec.num_rows), start=first):
        if unit == "line":
            number = int(place.rpartition(":")[2])
        raw = _checked(row, place=place, default_id=f"{unit} {number}", newline=newline)
        num_marks += newline is None and _MINILLM_NEWLINE in (raw.prompt or "")
        yield raw
    if num_marks:
        print(
            f"{where}: {num_marks} ready prompts of {spec.path} hold {_MINILLM_NEWLINE}, which is "
            f"kept as written; if it means a newline, as in MiniLLM's files, set newline: "
            f'"{_MINILLM_NEWLINE}"',
            file=sys.stderr,
        )


def _placed_rows(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    path = Path(spec.path)
    if path.suffix == ".jsonl" and not os.path.isdir(path):
        _refuse_hub_options(spec, where, path)
        return READERS[path.suffix](path)
    if not os.path.exists(path) and (
        path.suffix in _SUFFIXES or spec.path.startswith((".", os.sep, "~"))
    ):
        raise DistillensError(f"{where}.path: {spec.path} does not exist")
    if os.path.isfile(path):
        _refuse_hub_options(spec, where, path)
        if path.suffix not in _SUFFIXES:
            raise DistillensError(
                f"{where}.path: {spec.path} ends in {path.suffix!r}, expected "
                f"{', '.join(_SUFFIXES)}"
            )
        if path.suffix in READERS:
            return READERS[path.suffix](path)
    return _load_with_datasets(spec, where, default_split, cache_dir)


def _checked(row: dict[str, Any], *, place: str, default_id: str, newline: str | None) -> RawRow:
    task = "instruction" if row.get("instruction") is not None else "prompt"
    if row.get(task) is None or "output" not in row:
        raise DistillensError(
            f"{place}: found the keys {names(row)}; expected instruction, output and perhaps "
            "input, or prompt and output"
        )
    given_id = row.get("id")
    text = read_newlines(_text(row, task, place), newline)
    is_prompt = task == "prompt"
    return RawRow(
        id=default_id if given_id is None else str(given_id),
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


def _refuse_hub_options(spec: DatasetSpec, where: str, path: Path) -> None:
    for option in ("name", "split", "data_files"):
        if getattr(spec, option) is not None:
            raise DistillensError(
                f"{where}.{option}: {path} is a single file, which has no {option}; delete the key"
            )


def _load_with_datasets(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A data set of the `datasets` library: the Hub's, a local folder's, or another file format."""
    path = Path(spec.path)
    if spec.path in _CODE_FORMATS and not path.exists():
        raise DistillensError(
            f"{where}.path: found {spec.path!r}, a file format that can run code; expected a file, "
            "a folder, or a data set on the Hub"
        )
    # Imported here: it takes a second, which a plain file does not need.
    import datasets

    data_files = spec.data_files
    # A single file has a single split, which `datasets` calls train.
    split = spec.split or ("train" if data_files or path.is_file() else default_split)
    try:
        if path.is_file():
            rows = datasets.load_dataset(
                "parquet", data_files=str(path), split="train", cache_dir=cache_dir
            )
        elif (path / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(str(path))[split]
        elif (path / "state.json").exists():
            rows = datasets.load_from_disk(str(path))
        else:
            builder = datasets.load_dataset_builder(
                spec.path, spec.name, data_files=data_files, cache_dir=cache_dir
            )
            files = _own_files(builder, split) if path.is_dir() else None
            if files is not None:
                return files
            # pandas would take NA, None and null for missing.
            texts = {"keep_default_na": False, "na_filter": False}
            options = texts if builder.name == "csv" else {}
            rows = datasets.load_dataset(
                spec.path,
                spec.name,
                data_files=data_files,
                split=split,
                cache_dir=cache_dir,
                **options,
            )
    except DistillensError:
        raise
    except Exception as error:  # whatever a Hub, a network or a file format can raise
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        advice = (
            f"does it have the split {split!r}?"
            if path.exists()
            else "expected a .jsonl file, a folder, or a data set on the Hub that can be reached"
        )
        raise DistillensError(
            f"{where}.path: {spec.path!r} (split {split!r}) cannot be loaded: "
            f"{reason.strip()}; {advice}"
        ) from error
    return ((f"{spec.path} row {number}", row) for number, row in enumerate(rows))


def _own_files(builder: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """The rows of a split of a local folder whose files can be read without guessing types.

    None for other formats, or for a split that only `datasets` can slice or refuse.
    """
    wanted = _SLICE.fullmatch(split)
    splits = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    files = splits.get(wanted[1]) if wanted else None
    if not wanted or not files or any(Path(file).suffix not in READERS for file in files):
        return None
    rows = (row for file in files for row in READERS[Path(file).suffix](Path(file)))
    start, end = (int(text) if text else None for text in (wanted[2], wanted[3]))
    if (start or 0) < 0 or (end or 0) < 0:
        return iter(list(rows)[start:end])
    return islice(rows, start, end)
