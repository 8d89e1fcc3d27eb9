"""`distillens teacher-fisher TEACHER`: which directions of its layers a teacher notices."""

import argparse
from pathlib import Path

from distillens_plugin.commands.teacher_data import (
    add_teacher_and_data,
    data_of,
    layers_of,
    teacher_of,
)
from eval_harness.shared.program.flag_numbers import count, whole


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "teacher-fisher",
        help="measure which directions of its layers a teacher notices",
        description="Measures the empirical Fisher matrix of a teacher's loss at each of its "
        "layers, for metric: fisher of distillens.hidden_mse.",
    )
    add_teacher_and_data(parser, output="file for the matrices")
    parser.add_argument(
        "--num_rows", type=count, default=256, help="the first rows of the data (256)"
    )
    parser.add_argument(
        "--loss_on_prompt", action="store_true", help="the loss on prompts counts too"
    )
    parser.add_argument(
        "--labels",
        choices=("data", "sampled"),
        default="data",
        help="the data's own (the empirical Fisher matrix), or drawn from the teacher (data)",
    )
    parser.add_argument("--batch_size", "-b", type=count, default=8, help="rows at a time (8)")
    parser.add_argument("--seed", type=whole, default=0, help="seed of the drawn labels (0)")


def run(arguments: argparse.Namespace) -> None:
    """Measures the matrices; prints each one in figures."""
    layers = layers_of(arguments)
    from distillens_plugin.models.devices import device_named
    from distillens_plugin.prepare.teacher_fisher import FisherSettings, teacher_fisher

    found = teacher_fisher(
        teacher_of(arguments),
        data_of(arguments),
        Path(arguments.output),
        FisherSettings(
            layers=layers,
            labels=arguments.labels,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            device=str(device_named(arguments.device, "--device ")),
        ),
    )
    print("layer  squared gradient  share of the first direction  effective directions")
    for layer in found:
        print(
            f"{layer.layer:5d}  {layer.trace:16.4g}  {layer.first_share:28.3f}  "
            f"{layer.directions:20.1f}"
        )
    print(f"written to {arguments.output}")
