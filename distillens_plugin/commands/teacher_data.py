"""Flags of commands that read a teacher on rows of data, without a recipe."""

import argparse
from typing import TYPE_CHECKING

from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import count

if TYPE_CHECKING:
    from distillens_plugin.recipe.schema.data import DatasetSpec
    from distillens_plugin.recipe.schema.models import TeacherSpec
    from distillens_plugin.recipe.yaml_reader import KeyPath


def add_teacher_and_data(parser: argparse.ArgumentParser, *, output: str) -> None:
    """Adds the teacher, its data and the output file.

    Args:
        output: what the file is for.
    """
    parser.add_argument(
        "teacher",
        metavar="TEACHER",
        help="folder or Hub name of a causal LM, or an adapter's folder",
    )
    parser.add_argument("--data", required=True, help="instruction data: JSON Lines or a Hub name")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help=output)
    parser.add_argument(
        "--template", default="alpaca", help="alpaca, qwen, chat or a format string"
    )
    parser.add_argument("--max_length", type=count, default=512, help="tokens of a row (512)")
    parser.add_argument(
        "--max_prompt_length", type=count, default=256, help="tokens of a prompt (256)"
    )
    parser.add_argument(
        "--add_bos_token",
        choices=("auto", "true", "false"),
        default="auto",
        help="how prompts begin, as in the recipe (auto: as the tokenizer begins a text)",
    )
    parser.add_argument("--newline", metavar="TEXT", help='what the data write for one, as "<n>"')
    parser.add_argument("--layers", metavar="K,...", help="default: all, 0 to the last but one")
    parser.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    parser.add_argument(
        "--dtype", default="float32", help="type of the teacher's weights (float32)"
    )


def teacher_of(arguments: argparse.Namespace) -> "TeacherSpec":
    """The teacher's section of a recipe.

    Raises:
        DistillensError: an unknown --dtype, or an adapter without a base.
    """
    from distillens_plugin.models.loading import DTYPES
    from distillens_plugin.models.named import model_spec

    if arguments.dtype not in DTYPES:
        raise DistillensError(f"--dtype {arguments.dtype}: expected one of {', '.join(DTYPES)}")
    return model_spec(arguments.teacher, dtype=arguments.dtype)


def data_of(arguments: argparse.Namespace) -> "DatasetSpec":
    """The data section of a recipe; `num_rows` and `loss_on_prompt` are the command's own flags.

    Raises:
        DistillensError: a flag out of range.
    """
    from distillens_plugin.recipe.schema.base import checked
    from distillens_plugin.recipe.schema.data import DatasetSpec

    data = {
        "path": arguments.data,
        "template": arguments.template,
        "max_length": arguments.max_length,
        "max_prompt_length": arguments.max_prompt_length,
        "num_rows": arguments.num_rows,
        "loss_on_prompt": arguments.loss_on_prompt,
        "newline": arguments.newline,
        "add_bos_token": {"true": True, "false": False}.get(arguments.add_bos_token, "auto"),
    }
    return checked(DatasetSpec, data, flag_of)


def flag_of(at: "KeyPath") -> str:
    """The flag for a key of the data section, for errors."""
    from distillens_plugin.data.spec import key_of

    return key_of("--data", str(at[0])) if at else "--data"


def layers_of(arguments: argparse.Namespace) -> list[int] | None:
    """Layer numbers; None for all.

    Raises:
        DistillensError: something else than numbers.
    """
    text: str | None = arguments.layers
    try:
        return [int(k) for k in text.split(",")] if text else None
    except ValueError as error:
        raise DistillensError(f"--layers {text}: expected layer numbers") from error
