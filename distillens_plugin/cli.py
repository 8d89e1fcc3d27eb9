"""The `distillens` command."""

import argparse
import sys

from distillens_plugin import run
from eval_harness.command import OneLineParser, run_command


def _add_hooks(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "hooks",
        help="print a model's module paths, layers, norm and head",
        description="Prints what a recipe can name: a model's blocks, layers, final norm and head.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub name of a causal LM")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=_hooks)


def _hooks(arguments: argparse.Namespace) -> None:
    from distillens_plugin.hooks import describe_hooks
    from distillens_plugin.models import load_pretrained
    from distillens_plugin.schema_models import TeacherSpec

    spec = TeacherSpec(name_or_path=arguments.model, revision=arguments.revision)
    print(describe_hooks(load_pretrained(spec, where="MODEL")))


def main(argv: list[str] | None = None) -> int:
    """The entry point `distillens`."""
    parser = OneLineParser(prog="distillens", description="Distil language models with the lens.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    running = subparsers.add_parser("run", help="train what a recipe says", description=run.__doc__)
    run.add_arguments(running)
    running.set_defaults(command=run.run)
    _add_hooks(subparsers)
    arguments = parser.parse_args(argv)
    return run_command(
        lambda: arguments.command(arguments), program="distillens", debug=arguments.debug
    )


if __name__ == "__main__":
    sys.exit(main())
