"""The forward procedure that reads stored states, and runs the teacher for missing ones.

Legend: B rows of a batch, T tokens, N supervised positions, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised, supervised_from_targets
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer, layer_to_hook
from distillens_plugin.lens.output import IoDict, LensOutput, LensRows, rows_at
from distillens_plugin.lens.probe import hidden_states_of
from distillens_plugin.lens.readout import Lens
from distillens_plugin.sharding.pieces import any_process
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import DistillensError, RunFailure

FINAL = "final"


def state_name(layer: Layer, blocks_path: str) -> str:
    """The name under which a layer's residual stream is stored: `output:transformer.h.3`."""
    kind, path = ("output", layer) if isinstance(layer, str) else layer_to_hook(layer, blocks_path)
    return f"{kind}:{path}"


class CachedRows(LensRows):
    """A teacher read from the cache.

    Args:
        lens: of the teacher; its norm and unembedding are applied live, so that one cache serves
            `norm: identity` and `norm: final`.
        states: [N, D] by name, the residual stream of each layer and `final`, what the head reads.
    """

    def __init__(self, lens: Lens, states: dict[str, Tensor]) -> None:
        self.lens = lens
        self.states = states

    def final_rows(self, supervised: Supervised) -> Tensor:
        return self._rows(FINAL, supervised)

    def layer_rows(
        self, io_dict: IoDict, layer: Layer, supervised: Supervised, *, norm: str
    ) -> Tensor:
        return self.lens.apply_readout(self.hidden_rows(io_dict, layer, supervised), norm=norm)

    def hidden_rows(self, io_dict: IoDict, layer: Layer, supervised: Supervised) -> Tensor:
        return self._rows(state_name(layer, self.lens.blocks_path), supervised)

    def _rows(self, name: str, supervised: Supervised) -> Tensor:
        rows = self.states[name]
        if rows.shape[0] != supervised.positions.numel():
            raise RunFailure(
                f"teacher cache: {rows.shape[0]} stored positions for a batch with "
                f"{supervised.positions.numel()} supervised ones; the collate function must be "
                "distillens.collate, or one that keeps its order of positions"
            )
        return rows


class CachingForward:
    """Takes the place of a box's `teacher_forward_proc`.

    Args:
        forward: the procedure that runs the teacher.
        store: of the states.
        states: names of the residual streams that the losses read.
        io_dict: the box's `teacher_io_dict`, in which its hooks leave those streams.

    Attributes:
        num_teacher_batches: how often the teacher ran.
    """

    def __init__(
        self,
        forward: Callable[..., LensOutput],
        store: Store,
        states: Sequence[str],
        io_dict: dict[str, dict[str, Any]],
    ) -> None:
        self.forward = forward
        self.store = store
        self.states = states
        self.io_dict = io_dict
        self.num_teacher_batches = 0

    def __call__(
        self,
        model: nn.Module,
        sample_batch: dict[str, Tensor],
        targets: object = None,
        supp_dict: object = None,
        **kwargs: object,
    ) -> CachedRows:
        row_ids = _row_ids(targets)
        lens = lens_of(model)
        # Hooks may hold what an earlier forward recorded (the reader's probe), which belongs to no
        # batch: if the teacher does not run, torchdistill must find nothing.
        for recorded in self.io_dict.values():
            recorded.clear()
        device = sample_batch["input_ids"].device
        # All processes gather a sharded teacher, or none: one that has its rows would not come.
        if any_process(model, bool(self.store.missing(row_ids)), device):
            output = self.forward(model, sample_batch, targets, supp_dict, **kwargs)
            self.num_teacher_batches += 1
            self._keep(output, sample_batch, targets, row_ids)
        else:
            lens.gather()
        states = self.store.read(row_ids, device, [FINAL, *self.states])
        return CachedRows(lens, states)

    def _keep(
        self,
        output: LensOutput,
        batch: dict[str, Tensor],
        targets: object,
        row_ids: Sequence[str],
    ) -> None:
        supervised = supervised_from_targets(targets)
        counts = targets.get("row_counts") if isinstance(targets, Mapping) else None
        if counts is None:
            num_rows, num_tokens = batch["input_ids"].shape
            counts = torch.bincount(supervised.positions // num_tokens, minlength=num_rows).tolist()
        states = {FINAL: output.final_rows(supervised)}
        for name in self.states:
            states[name] = rows_at(self._hooked(name), supervised)
        self.store.add(row_ids, counts, states)

    def _hooked(self, name: str) -> Tensor:
        kind, _, path = name.partition(":")
        recorded = self.io_dict.get(path, {}).get(kind, {})
        hidden = hidden_states_of(next(iter(recorded.values()), None))
        if hidden is None:
            raise DistillensError(
                f"the teacher cache needs the {kind} of module {path!r}, and no hook recorded it: "
                f"add it to train.teacher.forward_hook: {{{kind}: [{path}]}}"
            )
        return hidden


def _row_ids(targets: object) -> Sequence[str]:
    row_ids: Sequence[str] | None = None
    if isinstance(targets, Mapping):
        row_ids = targets.get("row_ids")
    if row_ids is None:
        raise DistillensError(
            "the teacher cache finds rows by their ids, but this collate function gives none; set "
            "train_data_loader.collate_fn: distillens.collate"
        )
    return row_ids
