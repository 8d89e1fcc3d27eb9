"""The base errors of both packages: a user's mistakes, and failures while running."""


class DistillensError(Exception):
    """A user's mistake, in one line: where, what was found, what was expected, what to do.

    The commands print it without a traceback and exit with 2.

    Attributes:
        said_elsewhere: another process of the same run prints it.
    """

    exit_code = 2
    said_elsewhere = False


class RunFailure(DistillensError):  # noqa: N818 (it names an outcome)
    """Something failed while running (a NaN loss, a full disk, a backend): exit code 1."""

    exit_code = 1


class NotFinite(RunFailure):
    """A loss or a gradient is NaN or infinite: the settings, not the machine, ended the run."""
