"""Where a balanced term and its reference meet: the last block that both of them reach.

Legend: L blocks; layer k is the residual stream after k blocks.
"""

from dataclasses import dataclass

from torch import nn

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.probe import hook_prefix, plain_model
from distillens_plugin.losses.box import trained_model
from distillens_plugin.losses.term import terms_of
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Place:
    """A block of the trained model.

    Attributes:
        path: of the block in the plain model.
        layer: the residual stream after it.
    """

    path: str
    layer: int

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Its trained parameters, as they are now: wrappers may replace them."""
        block = plain_model(model).get_submodule(self.path)
        return [parameter for parameter in block.parameters() if parameter.requires_grad]


def places(experiment: Experiment) -> dict[str, Place]:
    """The place of each balanced term by its name; empty where no weight is `auto`.

    Raises:
        DistillensError: a term that reaches no block with trained parameters.
    """
    names = experiment.recipe.train.criterion.kwargs.balanced()
    return {name: _place(experiment, name) for name in names}


def _place(experiment: Experiment, name: str) -> Place:
    student, teacher = experiment.student_anatomy, experiment.teacher_anatomy
    where = experiment.recipe.where(f"train.criterion.kwargs.sub_terms.{name}.weight")
    model = trained_model(experiment.box)
    depths = (student.num_layers, (teacher or student).num_layers)
    pairs = terms_of(experiment.box.criterion)[name].term.pairs(*depths)
    # A term without layers reads the final states, as the reference does.
    layers = [pair[0] for pair in pairs] or [student.num_layers]
    prefix = hook_prefix(model)
    highest = max(_num_blocks_below(layer, student.blocks, prefix, where) for layer in layers)
    for layer in range(highest, 0, -1):
        place = Place(f"{student.blocks}.{layer - 1}", layer)
        # Blocks may be frozen: the gradient flows on to those below.
        if place.parameters(model):
            return place
    raise DistillensError(
        f"{where}: found auto, but the term reads layer {highest}, and no block up to there is "
        "trained, so no gradients can be compared; give it a number"
    )


def _num_blocks_below(layer: Layer, blocks: str, prefix: str, where: str) -> int:
    """How many whole blocks a layer's gradient reaches."""
    if isinstance(layer, int):
        return layer
    index, _, inner = layer.removeprefix(prefix).removeprefix(f"{blocks}.").partition(".")
    if not index.isdecimal():
        raise DistillensError(
            f"{where}: found auto, but the term reads {layer}, which is in no block of {blocks}; "
            "name a layer's number, or give the weight as a number"
        )
    return int(index) if inner else int(index) + 1
