"""`python -m distillens_plugin.run RECIPE`: from a recipe to a distilled student."""

import argparse
import sys
from pathlib import Path

from eval_harness.shared.program.command import Invocation, OneLineParser, run_program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run`, for both ways of calling it."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, such as recipes/quickstart.yaml"
    )
    parser.add_argument(
        "--validate", action="store_true", help="check all that can be checked without weights"
    )
    parser.add_argument(
        "--print",
        action="store_true",
        dest="print_form",
        help="with --validate: print the full torchdistill configuration",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="one real step: shapes, loss terms, memory, and the time the whole run would take",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="change a recipe key (repeatable); the value is YAML",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        metavar="FRAGMENT",
        dest="fragments",
        help="put a file over the recipe, such as recipes/methods/sft.yaml (repeatable)",
    )
    parser.add_argument("--output_dir", help="where everything is written")
    parser.add_argument("--seed", type=int, help="seed of data order, dropout and random weights")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in output_dir from its last whole epoch, or start it",
    )
    parser.add_argument(
        "--trust-recipe",
        action="store_true",
        help="let the recipe and its models run code (docs/security.md)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def quiet_transformers() -> None:
    """Its warnings on settings that we set right a moment later would drown our own lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def run(arguments: argparse.Namespace) -> int | None:
    """Validates, tries or trains what a recipe says."""
    from distillens_plugin import register_keys
    from eval_harness.errors import DistillensError

    register_keys()
    from distillens_plugin.recipe.loading import load_recipe

    if arguments.print_form and not arguments.validate:
        raise DistillensError("--print goes with --validate")
    if arguments.resume and (arguments.overwrite or arguments.validate or arguments.dry_run):
        raise DistillensError("--resume goes with none of --overwrite, --validate and --dry-run")
    overrides = list(arguments.overrides)
    if arguments.output_dir is not None:
        overrides.append(f"output_dir={_quoted(arguments.output_dir)}")
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    recipe = load_recipe(
        arguments.recipe,
        overrides=overrides,
        trust=arguments.trust_recipe,
        fragments=arguments.fragments,
    )
    if not arguments.debug:
        quiet_transformers()
    folder = Path(recipe.output_dir or Path("runs") / Path(arguments.recipe).stem)
    if arguments.validate:
        from distillens_plugin.preflight.validate import print_full_form, validate_without_weights

        for line in validate_without_weights(recipe, overwrite=arguments.overwrite):
            print(line)
        if arguments.print_form:
            print_full_form(recipe)
        return 0
    if arguments.dry_run:
        from distillens_plugin.training.dry_run import dry_run

        return dry_run(recipe)
    from distillens_plugin.training.train import train

    return train(recipe, folder, overwrite=arguments.overwrite, resume=arguments.resume)


def _quoted(text: str) -> str:
    """A path as a YAML string: a folder named 2024 is no number."""
    return "'" + text.replace("'", "''") + "'"


def main(argv: list[str] | None = None) -> int:
    """Runs a recipe; returns the exit code.

    Args:
        argv: the arguments; None: those of the process, which is taken to end with the command.
    """
    return run_program(lambda: _parse(argv), program="distillens run", ends_process=argv is None)


def _parse(argv: list[str] | None) -> Invocation:
    parser = OneLineParser(prog="python -m distillens_plugin.run", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return Invocation(lambda: run(arguments), "distillens run", arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
