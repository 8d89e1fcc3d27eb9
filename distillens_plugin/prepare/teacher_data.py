"""A frozen teacher and rows of data, for commands that read the one on the other."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.lens.positions import num_positions
from distillens_plugin.models.pretrained import checked_folder
from distillens_plugin.preflight.adapters import check_adapter_folder
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import check_writable


def check_teacher(spec: TeacherSpec) -> None:
    """Refuses a teacher whose files cannot be loaded, before weights and data are.

    Args:
        spec: of the command line; an adapter is a folder here.
    Raises:
        DistillensError: no model, or an adapter that cannot be merged into one.
    """
    checked_folder(spec, where="TEACHER")
    if spec.adapter is not None:
        check_adapter_folder(Path(spec.adapter), "TEACHER")


def check_output(file: Path) -> None:
    """Refuses a file that cannot be written, before any work is done.

    Raises:
        DistillensError: it is a folder, or its own folder cannot be made or written.
    """
    if file.is_dir():
        raise DistillensError(
            f"--output {file}: is a folder; name a file, such as {file / 'teacher.safetensors'}"
        )
    check_writable(file.parent)


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
