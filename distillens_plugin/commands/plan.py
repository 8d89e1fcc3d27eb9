"""`distillens plan RECIPE`: memory and time on the devices that one has, from configs alone."""

import argparse
import json
import re
from typing import TypeVar

from distillens_plugin.commands.flags import (
    add_fragments,
    add_overrides,
    add_trust,
    quiet_transformers,
)
from eval_harness.errors import DistillensError

Number = TypeVar("Number", int, float, int | None, float | None)
_SMALLEST = 1e-9
_UNITS = {"": 1e9, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "plan",
        help="print what a recipe takes on given devices, from configs alone",
        description="Prints memory and time of a recipe for each way to share out student and "
        "teacher, which of them fit, and what to change in the others. Loads no weights.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or a shipped recipe")
    parser.add_argument("--devices", type=int, default=1, help="devices of a node (1)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes (1)")
    parser.add_argument(
        "--memory", required=True, metavar="SIZE", help="memory of a device, such as 80GB or 24GiB"
    )
    parser.add_argument(
        "--reserve",
        default="2GB",
        metavar="SIZE",
        help="of it, what drivers, exchanges and gaps between blocks take (2GB)",
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="whose kernels are counted with (cuda)",
    )
    parser.add_argument(
        "--tflops", type=float, help="10^12 FLOPs a second of a device; without it, no time"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of it that training reaches (0.4, assumed)"
    )
    parser.add_argument("--rows", type=int, help="training rows, if the data are not here")
    parser.add_argument(
        "--row_tokens", type=float, help="their mean length in tokens, if the data are not here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and seconds")
    add_fragments(parser)
    add_trust(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan. Returns 0."""
    from distillens_plugin.costs.plan import Machine, plan_recipe
    from distillens_plugin.costs.report import plan_json, plan_lines
    from distillens_plugin.recipe.loading import load_recipe

    machine = Machine(
        devices=_positive(arguments.devices, "--devices"),
        nodes=_positive(arguments.nodes, "--nodes"),
        memory=size_in_bytes(arguments.memory, "--memory"),
        reserve=size_in_bytes(arguments.reserve, "--reserve", zero=True),
        device=arguments.device,
        tflops=_positive(arguments.tflops, "--tflops"),
        mfu=_positive(arguments.mfu, "--mfu"),
    )
    if machine.limit <= 0:
        raise DistillensError(
            f"--reserve {arguments.reserve}: leaves nothing of --memory {arguments.memory}; give "
            "a smaller one"
        )
    if machine.mfu > 1:
        raise DistillensError(f"--mfu {machine.mfu:g}: expected a share of at most 1")
    rows = _positive(arguments.rows, "--rows")
    row_tokens = _positive(arguments.row_tokens, "--row_tokens")
    if not arguments.debug:
        quiet_transformers()
    recipe = load_recipe(
        arguments.recipe,
        overrides=arguments.overrides,
        trust=arguments.trust_recipe,
        fragments=arguments.fragments,
    )
    plan = plan_recipe(recipe, machine, rows=rows, row_tokens=row_tokens)
    print(json.dumps(plan_json(plan), indent=2) if arguments.json else "\n".join(plan_lines(plan)))
    return 0


def _positive(value: Number, flag: str) -> Number:
    """The value of a flag; None stays."""
    if value is not None and not 0 < value < float("inf"):
        raise DistillensError(f"{flag} {value:g}: expected a number above 0")
    # Also for what JSON cannot hold: a time that is infinite.
    if value is not None and not _SMALLEST < value < 1 / _SMALLEST:
        raise DistillensError(f"{flag} {value:g}: expected a number that a machine can have")
    return value


def size_in_bytes(text: str, flag: str, *, zero: bool = False) -> float:
    """Bytes of 80GB, 24GiB or 500MB; a bare number counts GB.

    Args:
        zero: 0 is allowed.
    Raises:
        DistillensError: anything else.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise DistillensError(f"{flag} {text[:40]!r}: expected a size such as 80GB or 24GiB")
    number = float(match[1]) * (_BINARY if match[3] else _UNITS)[match[2].upper()]
    if number <= 0 and not zero:
        raise DistillensError(f"{flag} {text[:40]!r}: expected a size above 0, such as 80GB")
    return number
