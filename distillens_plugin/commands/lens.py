"""`distillens lens MODEL|RECIPE`: what the lens reads, layer by layer, in numbers and pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.commands.flags import (
    add_fragments,
    add_overrides,
    add_trust,
    quiet_transformers,
)
from distillens_plugin.commands.teacher_data import flag_of
from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import count, whole

if TYPE_CHECKING:
    from distillens_plugin.prepare.lens_subjects import Subjects

NORMS = ("identity", "final", "both")
# What only a model needs, and what only a recipe has, by flag and argument.
_OF_MODELS = {
    "--other": "other",
    "--data": "data",
    "--dtype": "dtype",
    "--template": "template",
    "--max_length": "max_length",
    "--max_prompt_length": "max_prompt_length",
    "--loss_on_prompt": "loss_on_prompt",
}
_OF_RECIPES = {"--student": "student", "--set": "overrides", "--with": "fragments"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "lens",
        help="what the lens reads from each layer of a model, or of a recipe's pair",
        description="Prints what the lens reads from each layer, how two models' layers differ "
        "and, for a recipe, how the lens's gradient compares with that of plain distillation; "
        "with --output_dir also as a page, figures and JSON.",
    )
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments, for `lens-report` too."""
    parser.add_argument(
        "target",
        metavar="MODEL|RECIPE",
        help="folder or Hub name of a causal LM, or a YAML file or packaged recipe with a teacher",
    )
    parser.add_argument(
        "--output_dir", type=Path, metavar="DIR", help="folder for the page, figures and JSON"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older map in DIR")
    parser.add_argument("--rows", type=count, default=32, help="rows that are read (32)")
    parser.add_argument(
        "--norm", choices=NORMS, default="both", help="read through the final norm or not (both)"
    )
    parser.add_argument(
        "--translators",
        metavar="FILE",
        help="read MODEL, or the recipe's teacher, through its tuned lens too (distillens "
        "tune-lens)",
    )
    parser.add_argument(
        "--examples", type=whole, help="rows whose tokens the page shows layer by layer (3)"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add_trust(parser, what="the models and the recipe")
    _add_for_models(parser.add_argument_group("for a model"))
    recipes = parser.add_argument_group("for a recipe")
    recipes.add_argument("--student", help="a trained student; default: the recipe's, as it starts")
    add_fragments(parser, recipes)
    add_overrides(recipes)


def _add_for_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", help="instruction data: JSON Lines or a Hub name")
    group.add_argument("--other", metavar="MODEL", help="a second model to compare with")
    group.add_argument("--template", help="alpaca (default), qwen, chat or a format string")
    group.add_argument("--max_length", type=count, help="tokens of a row (512, or all positions)")
    group.add_argument(
        "--max_prompt_length", type=count, help="tokens of a prompt (256, or half of a short row)"
    )
    group.add_argument(
        "--loss_on_prompt", action="store_true", default=None, help="read prompts too"
    )
    group.add_argument("--dtype", help="type of the weights (float32)")


def run(arguments: argparse.Namespace) -> None:
    """Reads, prints and, with --output_dir, writes the map."""
    is_recipe = names_recipe(arguments.target)
    _check(arguments, is_recipe)
    if not arguments.debug:
        quiet_transformers()
    from distillens_plugin.models.devices import device_named
    from distillens_plugin.prepare.lens_map import lens_map
    from distillens_plugin.reports.lens_folder import check_free
    from distillens_plugin.reports.lens_words import printed

    if arguments.output_dir is not None:
        check_free(arguments.output_dir, overwrite=arguments.overwrite)
    device = device_named(arguments.device, "--device ")
    subjects = _of_recipe(arguments) if is_recipe else _of_models(arguments)
    examples = 3 if arguments.examples is None else arguments.examples
    found = lens_map(
        subjects,
        norms=("identity", "final") if arguments.norm == "both" else (arguments.norm,),
        num_rows=arguments.rows,
        num_examples=examples if arguments.output_dir is not None else 0,
        device=device,
        settings=_settings(arguments),
    )
    print(*printed(found), sep="\n")
    if arguments.output_dir is not None:
        from distillens_plugin.reports.lens_page import write_lens_page

        print(f"written to {write_lens_page(found, arguments.output_dir)}")


def names_recipe(target: str) -> bool:
    """Whether a name is a recipe's: a YAML file's, or a packaged one that is no folder here."""
    from distillens_plugin.recipe.packaged import packaged_names

    if target.endswith((".yaml", ".yml")):
        return True
    path = Path(target)
    # Path.is_dir would raise on a name that no folder can have.
    if "\0" in target or path.is_dir():
        return False
    return Path(f"{target}.yaml").is_file() or target in packaged_names()


def _check(arguments: argparse.Namespace, is_recipe: bool) -> None:
    wrong, kind, other = (
        (_OF_MODELS, "a recipe", "a model") if is_recipe else (_OF_RECIPES, "a model", "a recipe")
    )
    for flag, name in wrong.items():
        if getattr(arguments, name) not in (None, []):
            mend = (
                "a recipe names its own models and rows; change them with --set"
                if is_recipe
                else "give a YAML file in place of the model, or leave the flag out"
            )
            raise DistillensError(
                f"{flag}: found with {kind} ({arguments.target}), but it is for {other}: {mend}"
            )
    if not is_recipe and arguments.data is None:
        raise DistillensError(
            f"--data: missing; expected instruction data that {arguments.target} is to read"
        )
    if arguments.output_dir is None:
        for flag, given in (
            ("--overwrite", arguments.overwrite),
            ("--examples", arguments.examples is not None),
        ):
            if given:
                raise DistillensError(f"{flag}: found without --output_dir; name a folder")
    if arguments.translators is not None and arguments.norm == "identity":
        raise DistillensError(
            "--translators: found with --norm identity, but they are trained through the final "
            "norm; choose --norm final or both"
        )


def _of_models(arguments: argparse.Namespace) -> "Subjects":
    from distillens_plugin.models.loading import DTYPES
    from distillens_plugin.models.named import model_spec
    from distillens_plugin.prepare.lens_subjects import models_subjects
    from distillens_plugin.recipe.schema.base import checked
    from distillens_plugin.recipe.schema.data import DatasetSpec

    dtype = arguments.dtype or "float32"
    if dtype not in DTYPES:
        raise DistillensError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    data = {"path": arguments.data}
    for name in ("template", "max_length", "max_prompt_length", "loss_on_prompt"):
        if getattr(arguments, name) is not None:
            data[name] = getattr(arguments, name)
    if arguments.max_length is not None and arguments.max_prompt_length is None:
        # The default would not fit into short rows.
        data["max_prompt_length"] = min(256, max(1, arguments.max_length // 2))
    spec = checked(DatasetSpec, data, flag_of)
    models = [
        model_spec(name, dtype=dtype, trusted=arguments.trust_recipe)
        for name in (arguments.target, arguments.other)
        if name is not None
    ]
    other = models[1] if len(models) > 1 else None
    shorten = arguments.max_length is None and arguments.max_prompt_length is None
    return models_subjects(models[0], other, spec, arguments.translators, shorten=shorten)


def _of_recipe(arguments: argparse.Namespace) -> "Subjects":
    from distillens_plugin.models.named import model_spec
    from distillens_plugin.prepare.lens_subjects import recipe_subjects
    from distillens_plugin.recipe.loading import load_recipe

    recipe = load_recipe(
        arguments.target,
        arguments.overrides,
        arguments.trust_recipe,
        fragments=arguments.fragments,
    )
    student = None
    if arguments.student is not None:
        student = model_spec(arguments.student, trusted=arguments.trust_recipe)
    return recipe_subjects(recipe, student=student, translators=arguments.translators)


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    left_out = ("command", "debug", "overwrite", "output_dir", "trust_recipe")
    given = {name: value for name, value in vars(arguments).items() if name not in left_out}
    return {
        name: value
        for name, value in sorted(given.items())
        if isinstance(value, str | int | list) and value not in ([], False)
    }
