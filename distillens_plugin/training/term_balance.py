"""`weight: auto`: a term's weight from the gradients that it and the reference give one block.

Before a measured step's own passes, its window goes through the models once with the reference
alone and once with the term alone. Their ratio is the length of the reference's gradient, as it
counts in the sum, over that of the term's, at the last block that both reach. The weight is 1, as
in the paper, up to the last measured step, and from there on the median of the ratios.

Steps of the late warm-up are measured (`balance_steps`), as a student with random weights gives a
lens hardly any gradient at first. So the ratios of thousands there neither count nor train it.

A step sees nothing of it but the weight: random states are put back, gradients are cleared.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import backward, trained_model
from distillens_plugin.lens.output import IoDict
from distillens_plugin.losses.box import Box
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import WeightedTerm, evaluate, terms_of
from distillens_plugin.losses.trained_parameters import loss_parameters
from distillens_plugin.recipe.schema.criterion import UNMEASURED
from distillens_plugin.sharding.pieces import is_in_pieces, put_away
from distillens_plugin.storage.main_process import say
from distillens_plugin.storage.random_states import undisturbed_random_states
from distillens_plugin.training.balance_place import Place, places
from distillens_plugin.training.balance_steps import measured_steps
from distillens_plugin.training.window import Window
from eval_harness.errors import RunFailure

PREFIX = "weight/"


class TermBalance:
    """Measures the weights that a recipe leaves to `auto`, and sets them.

    Args:
        experiment: built; its criterion holds 1 for these weights.

    Attributes:
        steps: those that are measured, ascending, from 1; empty where no weight is `auto`.
        num_measured: how many of them have been.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.accelerator = experiment.accelerator
        self.box: Box = experiment.box
        self.reshard_teacher = experiment.recipe.sharding.reshard_teacher
        self.places = places(experiment)
        criterion = experiment.recipe.train.criterion.kwargs
        self.reference = criterion.reference() if self.places else ""
        self.steps = measured_steps(experiment) if self.places else []
        self.num_measured = 0
        # |gradient of the reference| / |gradient of the term|, of each measured step that has both.
        self._ratios: dict[str, list[float]] = {name: [] for name in self.places}
        self._seconds = 0.0

    def before_step(self, window: Window, step: int) -> None:
        """Measures on the window of a step, if that is one to measure; the last sets the weights.

        Every process calls it.

        Args:
            step: from 1.
        Raises:
            RunFailure: no step of all that are measured gave a term a gradient.
        """
        if step not in self.steps:
            return
        started_at = time.perf_counter()
        of_reference = self._norms(self.reference, list(self.places.values()), window)
        self.num_measured += 1
        for (name, place), above in zip(self.places.items(), of_reference, strict=True):
            below = self._norms(name, [place], window)[0]
            self._add(name, above, below, step)
        self._seconds += time.perf_counter() - started_at
        if self._is_done():
            self._set()
            for line in self._lines():
                say(self.accelerator, line)

    def weights(self) -> dict[str, float]:
        """The weight that each balanced term has now."""
        if not self._is_done():
            return dict.fromkeys(self.places, UNMEASURED)
        return {name: statistics.median(ratios) for name, ratios in self._ratios.items()}

    def named_weights(self) -> dict[str, float]:
        """The same for the log: `weight/lens`."""
        return {f"{PREFIX}{name}": weight for name, weight in self.weights().items()}

    def state(self) -> dict[str, Any] | None:
        """What `restore` takes; None where nothing is balanced."""
        if not self.places:
            return None
        return {"num_measured": self.num_measured, "ratios": self._ratios}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Puts back what `state` gave, and sets the weights."""
        if state is None:
            return
        self.num_measured = state["num_measured"]
        self._ratios = {name: list(ratios) for name, ratios in state["ratios"].items()}
        self._set()

    def _is_done(self) -> bool:
        return self.num_measured == len(self.steps)

    def _add(self, name: str, above: float, below: float, step: int) -> None:
        if all(0 < norm < math.inf for norm in (above, below)):
            self._ratios[name].append(above / below)
            return
        found = (
            f"gradients at layer {self.places[name].layer}: {self.reference} {above:.3g}, {name} "
            f"{below:.3g}"
        )
        if self._is_done() and not self._ratios[name]:
            raise RunFailure(
                f"step {step}: the weight of {name} is auto, but none of the {len(self.steps)} "
                f"measured steps gave both gradients ({found}); give the weight as a number"
            )
        say(self.accelerator, f"step {step}: weight of {name} not measured ({found})")

    def _set(self) -> None:
        terms: dict[str, tuple[nn.Module, float]] = self.box.criterion.term_dict  # type: ignore[assignment]
        for name, weight in self.weights().items():
            terms[name] = (terms[name][0], weight)

    def _lines(self) -> list[str]:
        lines = []
        for name, weight in self.weights().items():
            ratios = self._ratios[name]
            lines.append(
                f"weight of {name}: {UNMEASURED:g} until step {self.steps[-1]}, then {weight:.4g} "
                f"(median of {len(ratios)} ratio{'s' if len(ratios) > 1 else ''}, "
                f"{min(ratios):.3g} to {max(ratios):.3g}, of the gradients of {self.reference} and "
                f"{name} at layer {self.places[name].layer}; {self._seconds:.1f} s for all weights)"
            )
        return lines

    def _norms(self, name: str, at: Sequence[Place], window: Window) -> list[float]:
        """The norm of one term's gradient over a window and all ranks, at each place."""
        box, criterion = self.box, self.box.criterion
        weighted = terms_of(criterion)[name]
        factor = weighted.factor if name == self.reference else 1.0
        alone = WeightedTerm(weighted.term, factor)
        box.criterion = _Alone(name, alone, getattr(criterion, "chunk_rows", None))
        try:
            with undisturbed_random_states():
                self._passes(window)
            model = trained_model(box)
            return [self._norm(place.parameters(model)) for place in at]
        finally:
            box.criterion = criterion
            _clear_gradients(box)

    def _passes(self, window: Window) -> None:
        box, accelerator = self.box, self.accelerator
        model = trained_model(box)
        in_pieces = is_in_pieces(model)
        for batch, targets in window.batches:
            # Whole models meet in `_norm`, with the few gradients that it reads.
            with nullcontext() if in_pieces else accelerator.no_sync(model):
                with accelerator.autocast():
                    loss = box.forward_process(batch, targets)
                backward(box, loss * accelerator.num_processes)
            if self.reshard_teacher:
                put_away(box.teacher_model)

    def _norm(self, parameters: Sequence[nn.Parameter]) -> float:
        scaler = self.accelerator.scaler
        # A loss in fp16 is scaled, and with it its gradients.
        scale = scaler.get_scale() if scaler is not None else 1.0
        pieces = [p.grad for p in parameters if isinstance(p, DTensor) and p.grad is not None]
        whole = [p for p in parameters if not isinstance(p, DTensor)]
        norms = [
            _whole(torch.linalg.vector_norm(gradient, dtype=torch.float32)) for gradient in pieces
        ]
        if whole:
            # A rank whose rows have no gradient must take part.
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in whole]
            flat = torch.cat([gradient.flatten().to(_wide(gradient)) for gradient in gradients])
            if self.accelerator.num_processes > 1:
                flat = self.accelerator.reduce(flat, "mean")
            norms.append(torch.linalg.vector_norm(flat))
        if not norms:
            return 0.0
        return float(torch.linalg.vector_norm(torch.stack(norms))) / scale


class _Alone(nn.Module):
    """One term in a criterion's place, without losses of the model."""

    def __init__(self, name: str, weighted: WeightedTerm, chunk_rows: int | None) -> None:
        super().__init__()
        self.terms = {name: weighted}
        self.chunk_rows = chunk_rows

    def forward(
        self,
        io_dict: Mapping[str, IoDict],
        model_loss_dict: Mapping[str, Tensor],
        targets: object,
    ) -> Tensor:
        reading = Reading(io_dict["student"], io_dict["teacher"], targets)
        return torch.as_tensor(evaluate(self.terms, reading, chunk_rows=self.chunk_rows).loss)


def _clear_gradients(box: Box) -> None:
    models = [trained_model(box), getattr(box, "teacher_model", None)]
    parameters = [p for model in models if model is not None for p in model.parameters()]
    for parameter in [*parameters, *loss_parameters(box.criterion).values()]:
        parameter.grad = None


def _wide(gradient: Tensor) -> torch.dtype:
    return torch.promote_types(gradient.dtype, torch.float32)


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
