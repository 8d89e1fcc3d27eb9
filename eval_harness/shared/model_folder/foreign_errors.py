"""What other libraries raise at a broken file, as one line of ours that names the file."""

import contextlib
from collections.abc import Iterator

from eval_harness.errors import DistillensError


def one_line(error: BaseException) -> str:
    """The first line of an exception's text that says something, shortened."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    return text if len(text) <= 300 else text[:300] + "..."


@contextlib.contextmanager
def foreign_errors(message: str) -> Iterator[None]:
    """Turns what other libraries raise at a broken file into `message (Type: reason)`.

    Raises:
        DistillensError: another exception was raised inside.
    """
    try:
        yield
    except DistillensError:
        raise
    except Exception as error:
        raise DistillensError(f"{message} ({type(error).__name__}: {one_line(error)})") from error
    except BaseException as error:
        # What a panic in a Rust extension becomes is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise DistillensError(f"{message} ({type(error).__name__}: {one_line(error)})") from error
