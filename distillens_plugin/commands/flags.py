"""What several subcommands share: flags, and quiet libraries."""

import argparse

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


def add_fragments(parser: argparse._ActionsContainer) -> None:
    """--with, repeatable; `fragments` of the arguments."""
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        metavar="FRAGMENT",
        dest="fragments",
        help="lay a fragment over the recipe, such as methods/sft (repeatable)",
    )


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
