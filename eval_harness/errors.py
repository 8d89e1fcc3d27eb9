"""The error base of both packages: what a user did wrong, and what failed while running."""


class DistillensError(Exception):
    """A user's mistake, told in one line: where, what was found, what was expected, what to do.

    The commands print it without a traceback and exit with 2.
    """

    exit_code = 2


class RunFailure(DistillensError):  # noqa: N818 (it names an outcome)
    """Something failed while running (a NaN loss, a full disk, a backend): exit code 1."""

    exit_code = 1
