"""`distillens cache RECIPE`: fills a recipe's teacher cache before training."""

import argparse

from distillens_plugin.commands.flags import (
    add_fragments,
    add_overrides,
    add_trust,
    quiet_transformers,
)
from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import count
from eval_harness.shared.program.key_values import read_key_values


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "cache",
        help="fill a recipe's teacher cache before training",
        description="Computes the teacher's states that a recipe's teacher_cache lacks. Repeat "
        "the command to resume an interrupted one. With a full cache, training loads no more of "
        "the teacher than its final norm and head.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with a teacher_cache")
    parser.add_argument(
        "--model",
        choices=("hf", "vllm", "server"),
        default="hf",
        help="hf: transformers, here; vllm: a vLLM of our own; server: a vLLM that you have "
        "started; default: hf",
    )
    parser.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        action="append",
        default=[],
        metavar="K=V",
        help="for hf dtype, device, device_map; for vllm its engine arguments, and python; for "
        "server base_url and folder. Separated by spaces or commas, or one JSON object",
    )
    parser.add_argument(
        "--max_gb", type=float, help="limit of the folder's size; overrides the recipe's"
    )
    parser.add_argument(
        "--batch_size", "-b", type=count, help="rows at a time, for hf; default: the recipe's"
    )
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="K/N",
        help="only every Nth row, from the Kth on, for N machines at once",
    )
    add_fragments(parser)
    add_overrides(parser)
    add_trust(parser)


def run(arguments: argparse.Namespace) -> None:
    """Fills the cache; prints one line at the end."""
    given = [part for parts in arguments.model_args for part in parts]
    model_args = read_key_values(given, flag="--model_args")
    overrides = list(arguments.overrides)
    if arguments.max_gb is not None:
        overrides.append(f"teacher_cache.max_gb={arguments.max_gb}")

    from distillens_plugin.recipe.loading import load_recipe

    recipe = load_recipe(
        arguments.recipe,
        overrides=overrides,
        trust=arguments.trust_recipe,
        fragments=arguments.fragments,
    )
    if recipe.teacher_cache is None:
        raise DistillensError(
            f"{recipe.path}: found no teacher_cache; add teacher_cache: {{path: ./cache/NAME}} or "
            "--set teacher_cache.path=FOLDER"
        )
    if not arguments.debug:
        quiet_transformers()

    from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
    from distillens_plugin.teacher_cache.fill.rows import Part

    settings = FillSettings(
        model=arguments.model,
        model_args=model_args,
        batch_size=arguments.batch_size,
        part=Part.parse(arguments.part),
        trusted=arguments.trust_recipe,
    )
    print(fill_cache(recipe, settings))
