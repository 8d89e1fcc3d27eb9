"""What several subcommands share: flags, and quiet libraries."""

import argparse
from collections.abc import Sequence
from typing import Any

from distillens_plugin.integrations.when_loaded import before_loading, when_loaded


def add_trust(parser: argparse.ArgumentParser, *, what: str = "the recipe and its models") -> None:
    """--trust-recipe.

    Args:
        what: names what may run code, for the help text.
    """
    parser.add_argument(
        "--trust-recipe", action="store_true", help=f"let {what} run code (docs/security.md)"
    )


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """--set, repeatable; `overrides` of the arguments."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="change a recipe key (repeatable); the value is YAML",
    )


def add_fragments(
    parser: argparse.ArgumentParser, group: argparse._ActionsContainer | None = None
) -> None:
    """--with, repeatable; `fragments` of the arguments. Words that belong to no flag are explained.

    Args:
        parser: of a command with --set too.
        group: of its flags, where they have groups.
    """
    _explain_stray_words(parser)
    (parser if group is None else group).add_argument(
        "--with",
        action="append",
        default=[],
        metavar="FRAGMENT",
        dest="fragments",
        help="lay a fragment over the recipe, such as methods/sft (repeatable)",
    )


def _explain_stray_words(parser: argparse.ArgumentParser) -> None:
    """Makes words without a flag, such as a fragment after the recipe, an error with the mend.

    argparse leaves them to the program's own parser, which does not know the command's flags. On
    the object, since argparse makes the parsers of subcommands itself.
    """
    parse = parser.parse_known_args

    def parse_known_args(
        arguments: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, left = parse(arguments, namespace)
        # Behind an unknown flag a word may be its value.
        if left and not any(word.startswith("-") for word in left):
            parser.error(
                f"unrecognized arguments: {' '.join(left)}; a fragment goes after --with, a "
                "changed key (A.B=VALUE) after --set"
            )
        return found, left

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def quiet_transformers() -> None:
    """Its warnings about settings that we correct a moment later would drown our own lines.

    Loads nothing: transformers is silenced as soon as it is loaded.
    """
    when_loaded("transformers", _quiet)


def announce_torch() -> None:
    """Prints a line if and when torch is about to be loaded, which takes seconds.

    Not on standard error, where a mistake in a recipe stays the only line.
    """
    before_loading("torch", lambda: print("loading torch and transformers ...", flush=True))


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
