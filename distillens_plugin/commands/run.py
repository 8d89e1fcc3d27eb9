"""`distillens run RECIPE`: from a recipe to a distilled student."""

import argparse
from pathlib import Path

from distillens_plugin.commands.flags import (
    add_fragments,
    add_overrides,
    add_trust,
    announce_torch,
    quiet_transformers,
)
from eval_harness.errors import DistillensError

DESCRIPTION = "Trains the student of a recipe, or checks the recipe first."


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run", help="train the student of a recipe", description=DESCRIPTION
    )
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run`, for both ways of calling it."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, or a shipped recipe: quickstart"
    )
    parser.add_argument(
        "--validate", action="store_true", help="check everything that needs no weights"
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
        help="run one real step; show shapes, loss terms, memory and the whole run's time",
    )
    add_overrides(parser)
    add_fragments(parser)
    parser.add_argument("--output_dir", help="folder for everything that is written")
    parser.add_argument("--seed", type=int, help="seed of data order, dropout and random weights")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in output_dir from its last state, or start a new one",
    )
    add_trust(parser)


def run(arguments: argparse.Namespace) -> int | None:
    """Validates, tries out or trains a recipe."""
    _refuse_together(arguments)
    if arguments.validate:
        announce_torch()
    from distillens_plugin.recipe.loading import load_recipe

    recipe = load_recipe(
        arguments.recipe,
        overrides=_overrides(arguments),
        trust=arguments.trust_recipe,
        fragments=arguments.fragments,
    )
    if not arguments.debug:
        quiet_transformers()
    if arguments.validate:
        from distillens_plugin.lens.config_facts import ModelFacts
        from distillens_plugin.preflight.validate import print_full_form, validate_without_weights

        facts: dict[str, ModelFacts] = {}
        for line in validate_without_weights(recipe, overwrite=arguments.overwrite, facts=facts):
            print(line)
        if recipe.teacher_cache is not None:
            from distillens_plugin.teacher_cache import describe_choice

            print(describe_choice(recipe))
        if arguments.print_form:
            print_full_form(recipe, facts)
        return 0
    if arguments.dry_run:
        from distillens_plugin.training.dry_run import dry_run

        return dry_run(recipe)
    from distillens_plugin.training.train import train

    folder = Path(recipe.output_dir or Path("runs") / Path(arguments.recipe).stem)
    return train(recipe, folder, overwrite=arguments.overwrite, resume=arguments.resume)


def _refuse_together(arguments: argparse.Namespace) -> None:
    if arguments.print_form and not arguments.validate:
        raise DistillensError("--print: needs --validate; add it")
    if arguments.validate and arguments.dry_run:
        raise DistillensError("--dry-run: cannot be combined with --validate; give one")
    if arguments.resume and (arguments.overwrite or arguments.validate or arguments.dry_run):
        raise DistillensError(
            "--resume: cannot be combined with --overwrite, --validate or --dry-run; give one"
        )


def _overrides(arguments: argparse.Namespace) -> list[str]:
    overrides = list(arguments.overrides)
    if arguments.output_dir is not None:
        overrides.append(f"output_dir={_quoted(arguments.output_dir)}")
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    return overrides


def _quoted(text: str) -> str:
    """A path as a YAML string: a folder named 2024 is not a number."""
    return "'" + text.replace("'", "''") + "'"
