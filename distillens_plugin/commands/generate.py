"""`distillens generate RECIPE --output FILE.jsonl`: the teacher answers the training prompts."""

import argparse
from pathlib import Path

from distillens_plugin.commands.flags import add_overrides, add_trust
from eval_harness.shared.program.flag_numbers import count, seeds


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "generate",
        help="let the teacher answer the training prompts (SeqKD)",
        description="Writes the teacher's answers to a recipe's training prompts, for "
        "recipes/methods/seqkd.yaml. An interrupted run resumes where it stopped.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with a teacher_model")
    parser.add_argument(
        "--output", required=True, metavar="FILE.jsonl", help="file for the answers"
    )
    add_overrides(parser)
    parser.add_argument("--model", "-m", default="vllm", help="vllm (default), hf or server")
    parser.add_argument(
        "--model_args", "-a", default="", metavar="K=V,...", help="as for eval-harness run"
    )
    parser.add_argument(
        "--gen_kwargs", default="", metavar="K=V,...", help="temperature=1,...; default: greedy"
    )
    parser.add_argument("--seed", metavar="N,...", help="when sampling: an answer for each seed")
    add_trust(parser)
    parser.add_argument("--batch_size", "-b", type=count, help="prompts answered at once")
    parser.add_argument(
        "--keep_unfinished", action="store_true", help="keep answers that hit the token limit"
    )


def run(arguments: argparse.Namespace) -> None:
    """Generates, and prints what was written and what was left out."""
    from distillens_plugin.prepare.teacher_answers import Generation, generate
    from distillens_plugin.recipe.loading import load_recipe
    from eval_harness.shared.program.key_values import parse_key_values

    model_args = parse_key_values(arguments.model_args, flag="--model_args")
    if arguments.batch_size is not None:
        model_args["batch_size"] = arguments.batch_size
    how = Generation(
        backend=arguments.model,
        model_args=model_args,
        gen_kwargs=parse_key_values(arguments.gen_kwargs, flag="--gen_kwargs"),
        seeds=seeds(arguments.seed),
        keep_unfinished=arguments.keep_unfinished,
        trusted=arguments.trust_recipe,
    )
    recipe = load_recipe(arguments.recipe, arguments.overrides, arguments.trust_recipe)
    print(generate(recipe, Path(arguments.output), how))
