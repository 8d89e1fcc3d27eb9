"""A local folder of data files: what the `datasets` library takes of it, and who reads that.

The library sorts files into splits by their names. Without a word it leaves out those with no
split's name beside some that have one, and those of another format than most.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillens_plugin.data.row_files import (
    READERS,
    SUFFIXES,
    PlacedRow,
    check_streamable,
    format_of,
)
from distillens_plugin.data.spec import DatasetSpec, key_of
from distillens_plugin.data.splits import names_of, sliced
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import names

# What the library takes for a pattern, or for a file within another, in a folder's path.
_SIGNS = ("*", "?", "[", "::")
# Where a folder says itself which files are data.
_CARDS = ("README.md", ".huggingface.yaml")


def check_folder_name(spec: DatasetSpec, where: str) -> None:
    """Refuses a folder that the `datasets` library would look for somewhere else.

    Raises:
        DistillensError: names the sign.
    """
    whole = str(Path(spec.path).resolve())
    sign = next((sign for sign in _SIGNS if sign in whole), None)
    if sign is not None:
        raise DistillensError(
            f"{key_of(where, 'path')}: found {sign!r} in {whole}, which the datasets library takes "
            "for a pattern; rename the folder, or name one .jsonl, .json or .csv file in it as path"
        )


def check_all_taken(builder: Any, spec: DatasetSpec, where: str) -> None:
    """Refuses a folder of which some data files are in no split, unless somebody says which are.

    Args:
        builder: of the `datasets` library, for that folder.
    Raises:
        DistillensError: names these files.
    """
    folder = Path(spec.path).resolve()
    cards = [folder / name for name in _CARDS if (folder / name).is_file()]
    if spec.data_files is not None or any(
        "data_files:" in card.read_text(encoding="utf-8", errors="replace") for card in cards
    ):
        return
    from datasets.data_files import resolve_pattern

    there = resolve_pattern("**", folder.as_posix())
    taken = {file for files in (builder.config.data_files or {}).values() for file in files}
    left = sorted(file for file in there if file.endswith(SUFFIXES) and file not in taken)
    if left:
        shown = names(file.removeprefix(f"{folder.as_posix()}/") for file in left)
        raise DistillensError(
            f"{key_of(where, 'path')}: {spec.path} holds files that would be left out: {shown}; "
            "expected all of one format, and names with train, validation or test in all of them "
            'or in none; rename them, move them elsewhere, or say data_files: "NAME", or '
            '"*.jsonl" for some'
        )


def own_rows(builder: Any, split: str, spec: DatasetSpec, where: str) -> Iterator[PlacedRow] | None:
    """The rows of a split of a local folder whose files can be read without guessing types.

    None for other formats.

    Raises:
        DistillensError: as `check_streamable` and `sliced`.
        ValueError: there is no such split.
    """
    splits = {
        str(name): [Path(file) for file in files]
        for name, files in (builder.config.data_files or {}).items()
    }
    wanted = names_of(split)
    # Of a split that is not there, the others tell what kind of folder it is.
    named = wanted if splits.keys() >= set(wanted) else splits
    files = [file for name in named for file in splits[name]]
    if not files or any(format_of(file) not in READERS for file in files):
        return None

    def load(name: str) -> Iterator[PlacedRow]:
        if name not in splits:
            raise ValueError(
                f"expected {' or '.join(splits)}, or rows of it as in train[100:] or train[:10%]"
            )
        for file in splits[name]:
            check_streamable(file, spec, where)
        return (row for file in splits[name] for row in READERS[format_of(file)](file))

    return sliced(split, load, where, streaming=spec.streaming)
