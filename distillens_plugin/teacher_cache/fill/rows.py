"""The rows that are to be filled: this machine's part of them, and in chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.lens.layers import Layer
from distillens_plugin.teacher_cache.fill.engine import FillRow
from distillens_plugin.teacher_cache.plan import Plan
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Part:
    """`--part 2/8`: every eighth row, from the second on."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """From what was typed.

        Raises:
            DistillensError: not K/N with 1 <= K <= N.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise DistillensError(
                f"--part {text}: expected K/N with K from 1 to N, such as 2/8 on the second of "
                "eight machines"
            )
        return cls(int(number), int(of))


def fill_rows(examples: InstructionDataset, part: Part) -> list[FillRow]:
    """A part's rows, in the order of the data."""
    rows = []
    for index in range(part.number - 1, len(examples), part.of):
        example = examples[index]
        labels = example["labels"]
        # The first token is nobody's next token.
        positions = [t for t in range(len(labels) - 1) if labels[t + 1] != IGNORED]
        rows.append(FillRow(str(example["id"]), list(example["input_ids"]), positions))
    return rows


def chunks(rows: Sequence[FillRow], num_positions: int) -> Iterator[list[FillRow]]:
    """Rows in groups with about so many positions, the longest rows first.

    Rows of a group are of like length, which saves padding, and what does not fit in memory is
    found out at once.
    """
    chunk: list[FillRow] = []
    held = 0
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        if chunk and held + len(row.positions) > num_positions:
            yield chunk
            chunk, held = [], 0
        chunk.append(row)
        held += len(row.positions)
    if chunk:
        yield chunk


def layer_numbers(plan: Plan, blocks: str | None, num_layers: int) -> dict[str, int]:
    """The layer of each state, by its name.

    Args:
        blocks: path of the teacher's list of blocks.
    Raises:
        DistillensError: a recipe that names a module which is no block; only a run can hook it.
    """
    return {
        name: _number(layer, blocks, num_layers, plan.where)
        for name, layer in zip(plan.states, plan.layers, strict=True)
    }


def _number(layer: Layer, blocks: str | None, num_layers: int, where: str) -> int:
    if isinstance(layer, int):
        return layer
    prefix, _, number = layer.rpartition(".")
    if prefix == blocks and number.isdecimal() and int(number) < num_layers:
        return int(number) + 1
    raise DistillensError(
        f"{where}: the recipe reads the teacher's module {layer}, which is not one of its blocks; "
        "name layers by number, or let a run fill the cache in its first epoch"
    )
