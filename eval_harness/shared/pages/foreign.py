"""A page that somebody else wrote is not replaced."""

from pathlib import Path

from eval_harness.errors import DistillensError

# The policy with which base.html.j2, and the pages before it, begin.
_OURS = b"""content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"""


def refuse_foreign_page(page: Path, flag: str) -> None:
    """Refuses the place of an HTML file that is no page of this project.

    Args:
        flag: that named the folder.
    Raises:
        DistillensError: see above, or the file cannot be read.
    """
    try:
        with page.open("rb") as file:
            start = file.read(2000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DistillensError(
            f"{flag}: cannot read {page} ({error.strerror}); name another folder"
        ) from error
    if _OURS not in start:
        raise DistillensError(
            f"{flag}: {page} is no report of this project, and would be replaced; name another "
            "folder"
        )
