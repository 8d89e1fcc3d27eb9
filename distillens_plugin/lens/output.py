"""What `distillens.forward` returns: hidden states, and the model's own way of reading them.

Legend: B batch, T tokens, N supervised positions, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from distillens_plugin.data.supervision import Supervised, supervised_from_targets
from distillens_plugin.lens.layers import Layer, layer_to_hook
from distillens_plugin.lens.probe import hidden_states_of
from distillens_plugin.lens.readout import Lens
from distillens_plugin.lens.recorder import Record
from eval_harness.errors import DistillensError

# By module path, then `input` or `output`: what torchdistill's hooks saw in one forward pass, and
# under '.' what the forward procedure returned.
IoDict = Mapping[str, Mapping[str, object]]


def rows_at(hidden_BTD: Tensor, supervised: Supervised) -> Tensor:
    """The hidden states of the supervised positions: [B, T, D] -> [N, D]."""
    return hidden_BTD.flatten(0, -2).index_select(0, supervised.to(hidden_BTD.device).positions)


class LensRows:
    """How a loss reads a model: as the rows that the model's own head takes.

    `LensOutput` takes them from a forward pass; the teacher cache reads them from disk.

    Attributes:
        lens: final norm and unembedding of the model.
    """

    lens: Lens

    def final_rows(self, supervised: Supervised) -> Tensor:
        """[N, D_head] rows of the final hidden states at the supervised positions."""
        raise NotImplementedError

    def layer_rows(
        self, io_dict: IoDict, layer: Layer, supervised: Supervised, *, norm: str
    ) -> Tensor:
        """[N, D_head] rows of one layer, through the readout."""
        raise NotImplementedError

    def hidden_rows(self, io_dict: IoDict, layer: Layer, supervised: Supervised) -> Tensor:
        """[N, D] rows of one layer as they are, before any norm."""
        raise NotImplementedError


class LensOutput(LensRows):
    """What `distillens.forward` returns: hidden states and the model's own readout.

    Attributes:
        lens: final norm and unembedding of the model that ran.
        last_hidden: [B, T, D], what the head reads (already normed).
        autocast_dtype: the type the model's matrix products ran in under autocast, else None.
        targets: what came inside the batch, for a loop that has no targets of its own, else None.
        router_loss: 0-d, a mixture of experts' auxiliary loss on its router, else None.
    """

    def __init__(
        self,
        lens: Lens,
        record: Record,
        logits: Tensor | None = None,
        targets: object = None,
        *,
        router_loss: Tensor | None = None,
    ) -> None:
        self.lens = lens
        self.last_hidden = record.last_hidden
        self.autocast_dtype = record.autocast_dtype
        self.targets = targets
        self.router_loss = router_loss
        self._logits = logits
        self._final_rows: tuple[Supervised, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.last_hidden.device

    @property
    def logits(self) -> Tensor:
        """[B, T, V], kept by `distillens.forward_with_logits`.

        Raises:
            DistillensError: the model ran without them.
        """
        if self._logits is None:
            raise DistillensError(
                "a loss reads the logits of distillens.forward, which runs the model without them; "
                "set forward_proc: distillens.forward_with_logits"
            )
        return self._logits

    def supervised(self, targets: object) -> Supervised:
        """The supervised positions of the step, on the model's device.

        Args:
            targets: the box's; where they are None, those that came inside the batch.
        Raises:
            DistillensError: there are none, or they hold no labels.
        """
        return supervised_from_targets(self.targets if targets is None else targets).to(self.device)

    @classmethod
    def __torch_function__(cls, *args: object, **kwargs: object) -> NoReturn:
        """For a loss of torch's or torchdistill's that reads the output itself, module path '.'."""
        raise DistillensError(
            "a loss reads the model's output '.' as a tensor, but distillens.forward returns no "
            "tensor; let it read the head: forward_hook: {output: [lm_head]} and that module path"
        )

    def __truediv__(self, other: object) -> NoReturn:
        self.__torch_function__()

    def final_rows(self, supervised: Supervised) -> Tensor:
        """[N, D] rows that the head reads; terms of one step get one tensor and share its GEMM."""
        if self._final_rows is None or self._final_rows[0].positions is not supervised.positions:
            self._final_rows = (supervised, rows_at(self.last_hidden, supervised))
        return self._final_rows[1]

    def layer_rows(
        self, io_dict: IoDict, layer: Layer, supervised: Supervised, *, norm: str
    ) -> Tensor:
        """[N, D] rows of one layer, through the readout: the lens's inputs to the unembedding.

        Args:
            io_dict: torchdistill's record of what the hooks saw.
            layer: k for the residual stream after k blocks, or a module path.
            norm: `identity` or `final`.
        """
        return self.lens.apply_readout(self.hidden_rows(io_dict, layer, supervised), norm=norm)

    def hidden_rows(self, io_dict: IoDict, layer: Layer, supervised: Supervised) -> Tensor:
        """[N, D] rows of one layer as they are, before any norm."""
        return rows_at(hooked(io_dict, layer, self.lens.blocks_path), supervised)


def hooked(io_dict: IoDict, layer: Layer, blocks_path: str) -> Tensor:
    """The [B, T, D] residual stream that torchdistill's forward hook recorded for a layer.

    Raises:
        DistillensError: the recipe installs no such hook; the error says which one to add.
    """
    kind, path = ("output", layer) if isinstance(layer, str) else layer_to_hook(layer, blocks_path)
    hidden = hidden_states_of(io_dict.get(path, {}).get(kind))
    if hidden is None:
        raise DistillensError(
            f"the loss needs the {kind} of module {path!r} (layer {layer}), but no hook recorded "
            f"it; add it to forward_hook: {{{kind}: [{path}]}} in the recipe"
        )
    return hidden
