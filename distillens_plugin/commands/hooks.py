"""`distillens hooks MODEL`: what a recipe can name of a model."""

import argparse


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "hooks",
        help="print a model's module paths, layers, norm and head",
        description="Prints what a recipe can name: a model's blocks, layers, final norm and head.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder or Hub name of a causal LM, or an adapter's folder"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")


def run(arguments: argparse.Namespace) -> None:
    """Prints the description."""
    from distillens_plugin.lens.hooks import describe_hooks
    from distillens_plugin.models.loading import load_teacher
    from distillens_plugin.models.named import model_spec
    from eval_harness.errors import DistillensError

    spec = model_spec(arguments.model, revision=arguments.revision)
    model = load_teacher(spec, where="MODEL")
    try:
        print(describe_hooks(model))
    except DistillensError as error:
        raise DistillensError(f"MODEL {arguments.model}: {error}") from error
