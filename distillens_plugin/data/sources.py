"""Where rows come from: a file, a folder, or the Hub through the `datasets` library."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from distillens_plugin.data.row_files import READERS
from distillens_plugin.data.spec import DatasetSpec
from eval_harness.errors import DistillensError

_SUFFIXES = (*READERS, ".parquet")
_SLICE = re.compile(r"(\w+)(?:\[(-?\d{0,18}):(-?\d{0,18})\])?")
# Names of `datasets`' own readers rather than of the Hub: pickled tables and Python objects.
_CODE_FORMATS = ("pandas", "generator", "spark", "sql", "cache")


def open_source(
    spec: DatasetSpec, where: str, default_split: str, cache_dir: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each row that a recipe's data set section names, not yet checked.

    Args:
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
        cache_dir: where the `datasets` library may write; its own cache if None.
    Raises:
        DistillensError: not found, not reachable, or not readable.
    """
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
