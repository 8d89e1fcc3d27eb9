"""`--model hf`: transformers runs the teacher in this process, on the devices at hand.

The batches, the padding and the hooks are those of training, so that the states are those that a
run's own first epoch would have stored.

Legend: B rows of a batch, T tokens, N supervised positions.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillens_plugin.data.collate import collate
from distillens_plugin.data.supervision import IGNORED, Supervised, supervised_from_targets
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import layer_to_hook
from distillens_plugin.lens.output import rows_at
from distillens_plugin.lens.readout import Lens
from distillens_plugin.lens.recorder import Recorder
from distillens_plugin.models.devices import device_named
from distillens_plugin.models.loading import load_teacher
from distillens_plugin.models.pretrained import DTYPES
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.token_log_probs import token_log_probs
from distillens_plugin.teacher_cache.identity import transformers_identity
from eval_harness.errors import DistillensError, RunFailure

_KNOWN = ("dtype", "device", "device_map")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TransformersEngine:
    """States from transformers.

    Args:
        recipe: with the teacher, and the precision that it runs in.
        arguments: of --model_args: `dtype` of the weights, `device`, or accelerate's `device_map`
            for a model over several devices.
        batch_size: rows at a time.
    Raises:
        DistillensError: an unknown argument, dtype or device.
    """

    def __init__(self, recipe: Recipe, arguments: dict[str, Any], *, batch_size: int) -> None:
        spec = recipe.models.teacher_model
        assert spec is not None  # the schema refuses a cache without a teacher
        for key in arguments:
            if key not in _KNOWN:
                raise DistillensError(
                    f"--model_args {key}: unknown for --model hf; expected {', '.join(_KNOWN)}"
                )
        dtype = arguments.get("dtype", spec.dtype)
        if dtype not in DTYPES:
            raise DistillensError(
                f"--model_args dtype={dtype}: expected one of {', '.join(DTYPES)}"
            )
        if "device" in arguments and "device_map" in arguments:
            raise DistillensError("--model_args: found device and device_map; give one of them")
        self._spec = spec.model_copy(update={"dtype": dtype})
        self._map = arguments.get("device_map")
        name = arguments.get("device")
        where = "--model_args device="
        self._device = device_named(None if name is None else str(name), where)
        self._autocast = _AUTOCAST.get(recipe.mixed_precision)
        self._max_length = recipe.datasets.train.max_length
        self._batch_size = batch_size
        self._model: PreTrainedModel | None = None
        self.identity = transformers_identity(recipe, "hf", dtype=dtype)

    def states(self, rows: Sequence[FillRow], layers: Sequence[int]) -> Iterator[RowStates]:
        """As `StatesEngine.states`."""
        model = self._loaded()
        lens = lens_of(model)
        recorder = Recorder(model, lens.anatomy, layers)
        try:
            for start in range(0, len(rows), self._batch_size):
                yield from self._batch(
                    lens, recorder, rows[start : start + self._batch_size], layers
                )
        except torch.OutOfMemoryError as error:
            raise RunFailure(
                f"--model hf: out of memory with {self._batch_size} rows at a time; lower "
                "--batch_size, or set device_map=auto"
            ) from error
        finally:
            recorder.remove()

    def close(self) -> None:
        """Forgets the model."""
        self._model = None

    def _loaded(self) -> PreTrainedModel:
        if self._model is None:
            model = load_teacher(self._spec, device_map=self._map)
            if self._map is None:
                model.to(self._device)  # type: ignore[arg-type]
            self._model = model
        return self._model

    @torch.no_grad()
    def _batch(
        self, lens: Lens, recorder: Recorder, rows: Sequence[FillRow], layers: Sequence[int]
    ) -> Iterator[RowStates]:
        batch, targets = collate([self._example(row) for row in rows])
        supervised = supervised_from_targets(targets)
        assert self._model is not None  # the caller has loaded it
        device = self._model.get_input_embeddings().weight.device  # type: ignore[union-attr]
        with self._in_precision(device):
            forward(self._model, {key: value.to(device) for key, value in batch.items()})
        record = recorder.take()
        assert record is not None  # the forward pass has just ended
        final = rows_at(record.last_hidden, supervised)
        log_probs = token_log_probs(lens, final, supervised.labels)
        states = {k: self._at(record.layers, lens, k, supervised) for k in layers}
        start = 0
        for row in rows:
            part = slice(start, start + len(row.positions))
            start = part.stop
            # Copies: a row must not keep the states of its whole batch in memory.
            own = {layer: rows_ND[part].clone() for layer, rows_ND in states.items()}
            yield RowStates(row.row_id, own, log_probs[part])

    def _at(
        self,
        recorded: dict[str, dict[str, Tensor]],
        lens: Lens,
        layer: int,
        supervised: Supervised,
    ) -> Tensor:
        kind, path = layer_to_hook(layer, lens.blocks_path)
        return rows_at(recorded[path][kind], supervised).cpu()

    def _example(self, row: FillRow) -> dict[str, Any]:
        labels = [IGNORED] * len(row.input_ids)
        for position in row.positions:
            labels[position + 1] = row.input_ids[position + 1]
        return {
            "id": row.row_id,
            "input_ids": row.input_ids,
            "labels": labels,
            "max_length": self._max_length,
        }

    def _in_precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self._autocast)
