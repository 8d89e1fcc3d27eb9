"""The folder of a lens map: what may be written there, and what is replaced."""

import re
from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import check_can_be_made

PAGE, NUMBERS, FIGURES = "lens.html", "lens.json", "figures"
_FIGURE = re.compile(r"(layers|matrix|tokens)_[a-z0-9_]+\.(png|svg)")


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds anything but an older map. Changes nothing.

    Args:
        overwrite: an older map may be replaced.
    Raises:
        DistillensError: see above, or the folder cannot be written.
    """
    check_can_be_made(folder)
    if not folder.is_dir():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not _is_own(path))
    if foreign:
        raise DistillensError(
            f"--output_dir {folder}: holds {foreign[0]}, which is no part of a lens map; expected "
            "a new folder or one of an older map: name another"
        )
    if any(folder.iterdir()) and not overwrite:
        raise DistillensError(
            f"--output_dir {folder}: holds a lens map; replace it with --overwrite, or name "
            "another folder"
        )


def clear(folder: Path) -> None:
    """Removes the older map's figures, of which the new one may have fewer."""
    for path in (folder / FIGURES).glob("*"):
        if _FIGURE.fullmatch(path.name):
            path.unlink()


def _is_own(path: Path) -> bool:
    if path.name == FIGURES and path.is_dir() and not path.is_symlink():
        return all(_FIGURE.fullmatch(each.name) for each in path.iterdir())
    return path.name in (PAGE, NUMBERS) and path.is_file()
