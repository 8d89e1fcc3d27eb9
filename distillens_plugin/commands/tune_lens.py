"""`distillens tune-lens TEACHER`: trains the tuned lens of a teacher."""

import argparse
from pathlib import Path

from distillens_plugin.commands.teacher_data import (
    add_teacher_and_data,
    data_of,
    layers_of,
    teacher_of,
)
from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import count, whole


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "tune-lens",
        help="train the tuned lens of a teacher",
        description="Trains an affine translator for each layer of a teacher, for "
        "DistillLensLoss's teacher_translators (arXiv 2303.08112).",
    )
    add_teacher_and_data(parser, output="file for the translators")
    parser.add_argument("--num_rows", type=count, help="use only the first rows of the data")
    parser.add_argument("--loss_on_prompt", action="store_true", help="train on prompts too")
    parser.add_argument("--num_steps", type=count, default=250, help="steps of Adam (250)")
    parser.add_argument("--batch_size", "-b", type=count, default=8, help="rows per step (8)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (1e-3)")
    parser.add_argument("--seed", type=whole, default=0, help="seed of the order of rows (0)")


def run(arguments: argparse.Namespace) -> None:
    """Trains the translators; prints each layer's KL before and after."""
    if not arguments.lr > 0:
        raise DistillensError(f"--lr {arguments.lr}: expected more than 0")
    layers = layers_of(arguments)
    from distillens_plugin.models.devices import device_named
    from distillens_plugin.prepare.tuned_lens import TuneSettings, tune_lens

    results = tune_lens(
        teacher_of(arguments),
        data_of(arguments),
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
