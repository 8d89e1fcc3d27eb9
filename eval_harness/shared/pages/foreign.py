"""A page, its text or its table that somebody else wrote is not replaced."""

from pathlib import Path
from typing import NoReturn

from eval_harness.errors import DistillensError

# The policy with which base.html.j2, and the pages before it, begin.
_OURS = b"""content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"""
# The first line of a Markdown file beside a page.
MARKDOWN_MARK = "<!-- Written with the page beside it; it may be written over. -->"


def refuse_foreign_page(page: Path, flag: str) -> None:
    """Refuses the place of an HTML file that is no page of this project.

    Args:
        flag: that named the folder.
    Raises:
        DistillensError: see above, or the file cannot be read.
    """
    start = _start_of(page, flag)
    if start is not None and _OURS not in start:
        _refuse(page, flag)


def refuse_foreign_markdown(text: Path, page: Path, flag: str, *, older: str) -> None:
    """Refuses the place of a Markdown file that does not begin with our mark.

    Args:
        page: the HTML page that it belongs to, already found to be ours or missing.
        flag: that named the folder.
        older: how the texts began that earlier versions, without the mark, wrote beside a page.
    Raises:
        DistillensError: see above, or the file cannot be read.
    """
    start = _start_of(text, flag)
    if start is None or start.startswith(MARKDOWN_MARK.encode()):
        return
    if not (start.startswith(older.encode()) and page.exists()):
        _refuse(text, flag)


def refuse_foreign_table(table: Path, flag: str, *, start: str) -> None:
    """Refuses the place of a CSV file that does not begin as ours.

    Args:
        flag: that named the folder.
        start: of the line of column names, in all versions.
    Raises:
        DistillensError: see above, or the file cannot be read.
    """
    found = _start_of(table, flag)
    if found is not None and not found.startswith(start.encode()):
        _refuse(table, flag)


def _start_of(file: Path, flag: str) -> bytes | None:
    """None: there is no such file."""
    try:
        with file.open("rb") as opened:
            return opened.read(2000)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DistillensError(
            f"{flag}: cannot read {file} ({error.strerror}); name another folder"
        ) from error


def _refuse(file: Path, flag: str) -> NoReturn:
    raise DistillensError(
        f"{flag}: {file} is no report of this project, and would be replaced; name another folder"
    )
