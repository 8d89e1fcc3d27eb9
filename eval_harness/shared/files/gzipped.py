"""Files that may be compressed with gzip, which the end of their name tells."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from eval_harness.errors import DistillensError

SUFFIX = ".gz"


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed as they are read if its name ends in .gz.

    Raises:
        DistillensError: it cannot be read, now or later inside the block, or is no whole gzip file.
    """
    name = os.fspath(path)
    try:
        if not name.endswith(SUFFIX):
            with open(name, "rb") as file:
                yield file
            return
        with gzip.open(name, "rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DistillensError(
            f"{name}: not a whole gzip file ({error}); compress it again, or rename it without "
            f"{SUFFIX} if it is not compressed"
        ) from error
    except OSError as error:
        raise DistillensError(f"{name}: cannot be read: {error.strerror or error}") from error
