"""`distillens tune-lens TEACHER`: trains the tuned lens of a teacher."""

import argparse
from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import count


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "tune-lens",
        help="train the tuned lens of a teacher",
        description="Trains an affine translator for each layer of a teacher, for "
        "DistillLensLoss's teacher_translators (arXiv 2303.08112).",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="folder or Hub name of a causal LM")
    parser.add_argument("--data", required=True, help="instruction data: JSON Lines or a Hub name")
    parser.add_argument(
        "--output", required=True, metavar="FILE.safetensors", help="file for the translators"
    )
    parser.add_argument(
        "--template", default="alpaca", help="alpaca, qwen, chat or a format string"
    )
    parser.add_argument("--max_length", type=count, default=512, help="tokens of a row (512)")
    parser.add_argument(
        "--max_prompt_length", type=count, default=256, help="tokens of a prompt (256)"
    )
    parser.add_argument("--num_rows", type=count, help="use only the first rows of the data")
    parser.add_argument("--loss_on_prompt", action="store_true", help="train on prompts too")
    parser.add_argument("--layers", metavar="K,...", help="default: all, 0 to the last but one")
    parser.add_argument("--num_steps", type=count, default=250, help="steps of Adam (250)")
    parser.add_argument("--batch_size", "-b", type=count, default=8, help="rows per step (8)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (1e-3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of rows (0)")
    parser.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    parser.add_argument(
        "--dtype", default="float32", help="type of the teacher's weights (float32)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains the translators; prints each layer's KL before and after."""
    if not arguments.lr > 0:
        raise DistillensError(f"--lr {arguments.lr}: expected more than 0")
    layers = _layers(arguments.layers)
    from distillens_plugin.models.devices import device_named
    from distillens_plugin.models.loading import DTYPES
    from distillens_plugin.prepare.tuned_lens import TuneSettings, tune_lens
    from distillens_plugin.recipe.schema.base import checked
    from distillens_plugin.recipe.schema.data import DatasetSpec
    from distillens_plugin.recipe.schema.models import TeacherSpec

    if arguments.dtype not in DTYPES:
        raise DistillensError(f"--dtype {arguments.dtype}: expected one of {', '.join(DTYPES)}")
    data = {
        "path": arguments.data,
        "template": arguments.template,
        "max_length": arguments.max_length,
        "max_prompt_length": arguments.max_prompt_length,
        "num_rows": arguments.num_rows,
        "loss_on_prompt": arguments.loss_on_prompt,
    }
    results = tune_lens(
        TeacherSpec(name_or_path=arguments.teacher, dtype=arguments.dtype),
        checked(DatasetSpec, data, lambda at: f"--{at[0] if at else 'data'}"),
        Path(arguments.output),
        TuneSettings(
            num_steps=arguments.num_steps,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            seed=arguments.seed,
            layers=layers,
            device=str(device_named(arguments.device, "--device ")),
        ),
    )
    print("layer  KL(final || logit lens)  KL(final || tuned lens), nats on held-out rows")
    for result in results:
        print(f"{result.layer:5d}  {result.kl_logit_lens:23.4f}  {result.kl_tuned_lens:23.4f}")
    print(f"written to {arguments.output}")


def _layers(text: str | None) -> list[int] | None:
    try:
        return [int(k) for k in text.split(",")] if text else None
    except ValueError as error:
        raise DistillensError(f"--layers {text}: expected layer numbers") from error
