"""A command with subcommands, one module each: `add_parser(subparsers)` and `run(arguments)`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from eval_harness.shared.program.command import Invocation, OneLineParser
from eval_harness.shared.program.completion import add_completion

# Both programs come in one.
_DISTRIBUTION = "distillens"
# The program's own flags, which no command follows.
_OWN_FLAGS = ("-h", "--help", "--version", "--debug", "--print-completion")


class Subcommand(Protocol):
    """What such a module defines. It is imported for `--help` too, so it must import little."""

    def add_parser(self, subparsers: "argparse._SubParsersAction[OneLineParser]") -> None:
        """Adds the subcommand's parser."""

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Does the work; returns the exit code, None for 0."""


class _Version(argparse.Action):
    """`--version`: looked up only on request, since reading the metadata takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version(_DISTRIBUTION)
        except PackageNotFoundError:
            found = f"(not installed; pip install -e . installs {_DISTRIBUTION})"
        print(f"{parser.prog} {found}")
        parser.exit()


def read_command_line(
    argv: Sequence[str] | None,
    *,
    program: str,
    description: str,
    package: str,
    names: Sequence[str],
    implied: str | None = None,
) -> Invocation:
    """What a command line asks for.

    Args:
        argv: the arguments; None: the process's own.
        description: of the whole program, for `--help`.
        package: holds a module for each subcommand.
        names: of these modules, in the order of `--help`.
        implied: the subcommand of a command line that begins with one of its flags.
    Raises:
        SystemExit: after `--help` and `--version` (0), or where the command line is wrong (2).
    """
    parser = OneLineParser(prog=program, description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    add_completion(parser)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names:
        module = cast(Subcommand, importlib.import_module(f"{package}.{name}"))
        before = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in set(subparsers.choices) - before:
            subparser = subparsers.choices[added]
            subparser.set_defaults(run=module.run)
            # After the subcommand too; SUPPRESS keeps it from undoing the one before.
            subparser.add_argument(
                "--debug",
                action="store_true",
                default=argparse.SUPPRESS,
                help="show the traceback of an error",
            )
    given = list(sys.argv[1:] if argv is None else argv)
    if implied is not None:
        given = _with_command(given, implied)
    arguments = parser.parse_args(given)
    command = f"{program} {arguments.command}"
    return Invocation(lambda: arguments.run(arguments), command, arguments.debug)


def _with_command(given: list[str], implied: str) -> list[str]:
    """The command line with the implied command, unless it begins with another or with `--help`."""
    place = 1 if given[:1] == ["--debug"] else 0
    first = given[place] if place < len(given) else ""
    if not first.startswith("-") or first.split("=")[0] in _OWN_FLAGS:
        return given
    return [*given[:place], implied, *given[place:]]
