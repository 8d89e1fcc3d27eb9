"""How a stage is called, alike for all: its device, its folder, its time."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from records import Record


@dataclass(frozen=True)
class Call:
    """A stage's arguments; `tiny` keeps every code path and shrinks every size."""

    device: torch.device
    out: Path
    seconds: float
    tiny: bool

    def record(self, name: str) -> Record:
        return Record(name, self.out, self.device, self.seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `all.py` passes on."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=default)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--tiny", action="store_true", help="small sizes: a trial on a CPU")


def call_of(description: str) -> Call:
    """Parses the command line of a stage that has no arguments of its own."""
    return call_and_arguments(description, lambda parser: None)[0]


def call_and_arguments(
    description: str, add_own: Callable[[argparse.ArgumentParser], None]
) -> tuple[Call, argparse.Namespace]:
    """Parses a stage's command line; its own arguments are in the second value."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add_arguments(parser)
    add_own(parser)
    parser.add_argument("--seconds", type=float, default=120.0, help="start no case after this")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    return Call(device, given.out.resolve(), given.seconds, given.tiny), given
