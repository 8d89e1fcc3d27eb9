"""A frozen teacher and rows of data, for commands that read the one on the other."""

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
