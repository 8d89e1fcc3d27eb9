"""The `distillens` command."""

import argparse
import sys

from distillens_plugin import register_keys, run
from eval_harness.shared.program.command import Invocation, OneLineParser, run_program
from eval_harness.shared.program.flag_numbers import count, seeds


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
    from distillens_plugin.lens.hooks import describe_hooks
    from distillens_plugin.models.loading import load_pretrained
    from distillens_plugin.recipe.schema.models import TeacherSpec
    from eval_harness.errors import DistillensError

    spec = TeacherSpec(name_or_path=arguments.model, revision=arguments.revision)
    model = load_pretrained(spec, where="MODEL")
    try:
        print(describe_hooks(model))
    except DistillensError as error:
        raise DistillensError(f"MODEL {arguments.model}: {error}") from error


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-recipe",
        action="store_true",
        help="let the recipe and its models run code (docs/security.md)",
    )


def _add_generate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="let the teacher answer the training prompts (SeqKD)",
        description="Writes the teacher's answers to a recipe's training prompts, for "
        "recipes/methods/seqkd.yaml. An interrupted run goes on where it stopped.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with a teacher_model")
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="what is written")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", dest="overrides")
    parser.add_argument("--model", "-m", default="vllm", help="vllm (default) or hf")
    parser.add_argument(
        "--model_args", "-a", default="", metavar="K=V,...", help="as for eval-harness run"
    )
    parser.add_argument(
        "--gen_kwargs", default="", metavar="K=V,...", help="temperature=1,...; default: greedy"
    )
    parser.add_argument("--seed", metavar="N,...", help="one answer for each, when sampling")
    _add_trust(parser)
    parser.add_argument("--batch_size", "-b", type=count, help="rows in flight")
    parser.add_argument(
        "--keep_unfinished", action="store_true", help="keep answers that reached the limit"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=_generate)


def _generate(arguments: argparse.Namespace) -> None:
    from pathlib import Path

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


def _add_tune_lens(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "tune-lens",
        help="train the tuned lens of a teacher",
        description="Trains an affine translator for each layer of a teacher, for "
        "DistillLensLoss's teacher_translators (arXiv 2303.08112).",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="folder or Hub name of a causal LM")
    parser.add_argument("--data", required=True, help="instruction data: JSON Lines or a Hub name")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors")
    parser.add_argument(
        "--template", default="alpaca", help="alpaca, qwen, chat or a format string"
    )
    parser.add_argument("--max_length", type=count, default=512, help="tokens of a row (512)")
    parser.add_argument(
        "--max_prompt_length", type=count, default=256, help="tokens of a prompt (256)"
    )
    parser.add_argument("--num_rows", type=count, help="only the first rows of the data")
    parser.add_argument("--loss_on_prompt", action="store_true", help="train on prompts too")
    parser.add_argument("--layers", metavar="K,...", help="default: all, 0 to the last but one")
    parser.add_argument("--num_steps", type=count, default=250, help="steps of Adam (250)")
    parser.add_argument("--batch_size", "-b", type=count, default=8, help="rows a step (8)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (1e-3)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows (0)")
    parser.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="of the teacher's weights (float32)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=_tune_lens)


def _tune_lens(arguments: argparse.Namespace) -> None:
    from distillens_plugin.prepare.tuned_lens import tune_lens_command

    tune_lens_command(arguments)


def _add_lens_report(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "lens-report",
        help="what the lens reads on a recipe's pair, with and without the final norm",
        description="Prints what the lens reads from each layer of both models, and how its "
        "gradient lies to that of plain distillation, with either norm.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with a DistillLensLoss")
    parser.add_argument("--student", help="a trained student; default: the recipe's, as it starts")
    parser.add_argument("--rows", type=int, default=32, help="rows of validation data (32)")
    _add_trust(parser)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", dest="overrides")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=_lens_report)


def _lens_report(arguments: argparse.Namespace) -> None:
    from distillens_plugin.prepare.lens_report import lens_report
    from distillens_plugin.recipe.loading import load_recipe

    if not arguments.debug:
        run.quiet_transformers()
    recipe = load_recipe(arguments.recipe, arguments.overrides, arguments.trust_recipe)
    print(*lens_report(recipe, student=arguments.student, num_rows=arguments.rows), sep="\n")


def _add_study(subparsers: argparse._SubParsersAction) -> None:
    from distillens_plugin.commands import study

    parser = subparsers.add_parser(
        "study",
        help="compare methods over seeds: train, evaluate, report",
        description="Trains every method of a study with every seed, evaluates the models with "
        "eval_harness and reports what the numbers support. What is done is skipped.",
    )
    study.add_arguments(parser)
    parser.set_defaults(command=study.run)


def main(argv: list[str] | None = None) -> int:
    """The entry point `distillens`; returns the exit code.

    Args:
        argv: the arguments; None: those of the process, which is taken to end with the command.
    """
    return run_program(lambda: _parse(argv), program="distillens", ends_process=argv is None)


def _parse(argv: list[str] | None) -> Invocation:
    parser = OneLineParser(prog="distillens", description="Distil language models with the lens.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    running = subparsers.add_parser("run", help="train what a recipe says", description=run.__doc__)
    run.add_arguments(running)
    running.set_defaults(command=run.run)
    _add_hooks(subparsers)
    _add_generate(subparsers)
    _add_tune_lens(subparsers)
    _add_lens_report(subparsers)
    _add_study(subparsers)
    arguments = parser.parse_args(argv)

    def command() -> int | None:
        register_keys()
        return arguments.command(arguments)

    return Invocation(command, "distillens", arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
