"""A frozen teacher and rows of data, for commands that read the one on the other."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.lens.positions import num_positions
from eval_harness.errors import DistillensError


def check_positions(model: PreTrainedModel, examples: InstructionDataset) -> None:
    """Refuses rows that are longer than the teacher's positions.

    Raises:
        DistillensError: there are some.
    """
    limit, longest = num_positions(model.config), max(examples.lengths)
    if limit is not None and longest > limit:
        raise DistillensError(
            f"--data: the longest row has {longest} tokens, but the teacher has {limit} "
            f"positions; pass --max_length {limit} or less"
        )


def layers_below_last(given: Sequence[int] | None, num_layers: int, why: str) -> list[int]:
    """The layers that a command reads, ascending; all below the last for None.

    Args:
        given: k is the residual stream after k blocks, 0 the embeddings.
        why: what the last one, num_layers, is left out for.
    Raises:
        DistillensError: there is no such layer, or it is the last.
    """
    layers = list(range(num_layers)) if given is None else sorted(set(given))
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise DistillensError(
                f"--layers {layer}: the teacher has layers 0 to {num_layers}, and the last one "
                f"{why}"
            )
    return layers
