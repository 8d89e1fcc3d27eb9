"""Where rows come from: a file, a folder, or the Hub through the `datasets` library."""

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from distillens_plugin.data.columns import FIELDS, renamed
from distillens_plugin.data.folders import check_all_taken, check_folder_name, own_rows
from distillens_plugin.data.row_files import (
    READERS,
    SUFFIXES,
    PlacedRow,
    check_streamable,
    format_of,
)
from distillens_plugin.data.spec import DatasetSpec, key_of
from distillens_plugin.data.splits import sliced
from eval_harness.errors import DistillensError, RunFailure

# Names of `datasets`' own readers rather than of the Hub: pickled tables and Python objects.
_CODE_FORMATS = ("pandas", "generator", "spark", "sql", "cache")
# CSV has no null: there an empty cell is a missing value, except in a text that may be empty.
_MISSING_WHERE_EMPTY = tuple(field for field in FIELDS if field not in ("input", "output"))


def open_source(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> Iterator[PlacedRow]:
    """(place, row) of each row that a recipe's data set section names, its columns renamed.

    Rows are read as they are asked for, except from a JSON array and, unless `spec.streaming`,
    from what only the `datasets` library can read.

    Args:
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
        cache_dir: where the `datasets` library may write; its own cache if None.
    Raises:
        DistillensError: not found, not reachable, or not readable.
    """
    rows, is_csv = _open(spec, where, default_split, cache_dir)
    rows = islice(rows, spec.num_rows)
    if spec.columns:
        rows = renamed(rows, spec.columns, f"{where}.columns")
    return _without_empty_cells(rows) if is_csv else rows


def _without_empty_cells(rows: Iterator[PlacedRow]) -> Iterator[PlacedRow]:
    for place, row in rows:
        kept = {key: cell for key, cell in row.items() if cell or key not in _MISSING_WHERE_EMPTY}
        yield place, kept


def _open(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> tuple[Iterator[PlacedRow], bool]:
    """The rows, and whether they come from CSV."""
    path = Path(spec.path)
    form = format_of(path)
    is_single = not path.is_dir() and (path.exists() or form == ".jsonl")
    if not is_single and not path.exists():
        looks_like_a_file = path.name.endswith(SUFFIXES)
        if looks_like_a_file or spec.path.startswith((".", os.sep, "~")):
            raise DistillensError(f"{key_of(where, 'path')}: {spec.path} does not exist")
    if not is_single:
        return _load_with_datasets(spec, where, default_split, cache_dir)
    _refuse_options(spec, where, ("name", "split", "data_files"), f"{path} is a single file")
    if not path.name.endswith(SUFFIXES):
        raise DistillensError(
            f"{key_of(where, 'path')}: {spec.path} ends in {path.suffix!r}, expected "
            f"{', '.join(SUFFIXES)}"
        )
    if form not in READERS:
        return _load_with_datasets(spec, where, default_split, cache_dir)
    check_streamable(path, spec, where)
    return READERS[form](path), form == ".csv"


def _refuse_options(spec: DatasetSpec, where: str, options: tuple[str, ...], what: str) -> None:
    for option in options:
        if getattr(spec, option) is not None:
            raise DistillensError(
                f"{where}.{option}: {what}, which has no {option}; delete the key"
            )


def _load_with_datasets(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> tuple[Iterator[PlacedRow], bool]:
    """A data set of the `datasets` library: the Hub's, a local folder's, or another file format."""
    path = Path(spec.path)
    if spec.path in _CODE_FORMATS and not path.exists():
        raise DistillensError(
            f"{key_of(where, 'path')}: found {spec.path!r}, a file format that can run code; "
            "expected a file, a folder, or a data set on the Hub"
        )
    # Imported here: it takes a second, which a plain file does not need.
    import datasets

    # A single file has a single split, which `datasets` calls train.
    split = spec.split or ("train" if spec.data_files or path.is_file() else default_split)
    no_option = f"{path} was written by save_to_disk"
    is_csv = False
    rows: Iterator[dict[str, Any]]
    try:
        if (path / "dataset_dict.json").exists():
            _refuse_options(spec, where, ("name", "data_files"), no_option)
            saved = datasets.load_from_disk(str(path))
            rows = sliced(split, lambda name: saved[name], where, streaming=False)
        elif (path / "state.json").exists():
            _refuse_options(spec, where, ("name", "data_files", "split"), no_option)
            rows = iter(datasets.load_from_disk(str(path)))
        else:
            kind = ("parquet", None) if path.is_file() else (spec.path, spec.name)
            # What is given as a file is taken for a pattern.
            files = glob.escape(os.path.abspath(path)) if path.is_file() else spec.data_files
            if path.is_dir():
                check_folder_name(spec, where)
            builder = datasets.load_dataset_builder(*kind, data_files=files, cache_dir=cache_dir)
            is_csv = builder.name == "csv"
            if path.is_dir():
                check_all_taken(builder, spec, where)
                own = own_rows(builder, split, spec, where)
                if own is not None:
                    return own, is_csv
            # pandas would take NA, None and null for missing.
            texts = {"keep_default_na": False, "na_filter": False} if is_csv else {}

            def load(name: str) -> Iterable[dict[str, Any]]:
                return datasets.load_dataset(
                    *kind,
                    data_files=files,
                    split=name,
                    cache_dir=cache_dir,
                    streaming=spec.streaming,
                    **texts,
                )

            # A stream has no length, so `datasets` does not slice it.
            rows = (
                sliced(split, load, where, streaming=True) if spec.streaming else iter(load(split))
            )
    except DistillensError:
        raise
    except Exception as error:  # whatever a Hub, a network or a file format can raise
        _refuse(spec, split, where, error)
    return _placed(rows, spec, split, where), is_csv


def _placed(
    rows: Iterator[dict[str, Any]], spec: DatasetSpec, split: str, where: str
) -> Iterator[PlacedRow]:
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # a stream meets the network and the format only here
            if number == 0:
                _refuse(spec, split, where, error)
            raise RunFailure(
                f"{spec.path} row {number}: cannot be read on: {_first_line(error)}"
            ) from error
        yield f"{spec.path} row {number}", row
        number += 1


def _refuse(spec: DatasetSpec, split: str, where: str, error: Exception) -> NoReturn:
    if Path(spec.path).is_file():
        advice = "is it a whole Parquet file?"
    elif Path(spec.path).exists():
        advice = f"does it have the split {split!r}?"
    else:
        advice = "expected a .jsonl file, a folder, or a data set on the Hub that can be reached"
    raise DistillensError(
        f"{key_of(where, 'path')}: {spec.path!r} (split {split!r}) cannot be loaded: "
        f"{_first_line(error)}; {advice}"
    ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
