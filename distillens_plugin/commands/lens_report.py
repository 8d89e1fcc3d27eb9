"""`distillens lens-report RECIPE`: what the lens reads on a recipe's pair."""

import argparse

from distillens_plugin.commands.flags import add_overrides, add_trust, quiet_transformers


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "lens-report",
        help="what the lens reads from a recipe's models, with and without the final norm",
        description="Prints what the lens reads from each layer of both models, and how its "
        "gradient compares with that of plain distillation, with either norm.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with a DistillLensLoss")
    parser.add_argument("--student", help="a trained student; default: the recipe's, as it starts")
    parser.add_argument("--rows", type=int, default=32, help="rows of validation data (32)")
    add_trust(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prints the report."""
    from distillens_plugin.prepare.lens_report import lens_report
    from distillens_plugin.recipe.loading import load_recipe

    if not arguments.debug:
        quiet_transformers()
    recipe = load_recipe(arguments.recipe, arguments.overrides, arguments.trust_recipe)
    print(*lens_report(recipe, student=arguments.student, num_rows=arguments.rows), sep="\n")
