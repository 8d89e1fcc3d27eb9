"""Other libraries' exceptions about a broken file, turned into one line that names the file."""

import contextlib
from collections.abc import Iterator

from eval_harness.errors import DistillensError


def one_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, shortened."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    return text if len(text) <= 300 else text[:300] + "..."


@contextlib.contextmanager
def foreign_errors(message: str) -> Iterator[None]:
    """Turns other libraries' exceptions into `message (Type: reason)`.

    Raises:
        DistillensError: the block raised another exception.
    """
    try:
        yield
    except DistillensError:
        raise
    except Exception as error:
        raise DistillensError(f"{message} ({type(error).__name__}: {one_line(error)})") from error
    except BaseException as error:
        # A panic in a Rust extension is raised as a BaseException.
        if type(error).__name__ != "PanicException":
            raise
        raise DistillensError(f"{message} ({type(error).__name__}: {one_line(error)})") from error
