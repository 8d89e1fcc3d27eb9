"""`AttachedLens`: the distillation loss of two models that somebody else's code runs.

Legend: B batch, T tokens, N supervised positions, V vocabulary.
"""

import contextlib
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from distillens_plugin.attached.batch_check import check_batch
from distillens_plugin.attached.side import Side
from distillens_plugin.attached.teacher_files import check_teacher_files
from distillens_plugin.attached.terms import (
    KD,
    checked_chunk_rows,
    lens_term,
    weighted_terms,
)
from distillens_plugin.data.supervision import find_supervised
from distillens_plugin.losses.projection import link_projections
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Term, evaluate
from eval_harness.errors import DistillensError


class AttachedLens:
    """Watches a student's and a teacher's forward passes, and computes the loss from what it saw.

    It uses the loss terms of the torchdistill recipes, so the numbers are the same. The models may
    be wrapped before or after (DDP, peft, torch.compile); generation with a cache is not recorded.
    [B, T, V] logits are never made here; with `headless` the models make none either.

    Args:
        student, teacher: causal LMs; the teacher is put into eval mode, and may be None where no
            term reads it. They must be two objects.
        layers: as for `DistillLensLoss`, and so are norm, divergence, beta, temperature,
            scale_by_temperature_squared, pair_weights, detach_unembedding, teacher_translators,
            readout, projection, seed, positions, min_teacher_entropy, weigh_by, chunk_rows and
            divergence_options. With None there is no lens term.
        projection_of: as for `DistillLensLoss`: the name of one of `terms`.
        lens_weight: factor of the lens term.
        kd: a divergence of the final distributions, by its name or as `LogitsKD`'s parameters.
        kd_weight: its factor.
        cross_entropy: factor of the labels' negative log-likelihood; 0 leaves it out.
        router_loss: factor of a mixture-of-experts student's auxiliary router loss.
        terms: further terms by name, each with its factor; what they train is in
            `trained_parameters`.
        headless: both models' forward passes skip their heads until `remove`; generation with a
            cache does not.

    Attributes:
        values: of the last loss, unweighted: `lens`, `lens/2-8` for a layer pair, `kd`,
            `cross_entropy`, `router_loss`; 0-d, detached, on the device. They are means over the
            N supervised positions, or sums over them divided by `num_items_in_batch`.
    Raises:
        DistillensError: arguments that do not fit the models or each other, a file that was made
            on another teacher, or a model that the lens cannot read.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        layers: LayerSpec | None = None,
        *,
        norm: str = "identity",
        divergence: str = "jsd",
        beta: float | None = None,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        pair_weights: Sequence[float] | None = None,
        detach_unembedding: bool = False,
        teacher_translators: str | None = None,
        readout: str = "own",
        projection: str | None = None,
        projection_of: str | None = None,
        seed: int | None = None,
        positions: float = 1.0,
        min_teacher_entropy: float | None = None,
        weigh_by: str | None = None,
        chunk_rows: int | None = None,
        lens_weight: float = 1.0,
        kd: KD | None = None,
        kd_weight: float = 1.0,
        cross_entropy: float = 0.0,
        router_loss: float = 0.0,
        terms: Mapping[str, tuple[Term, float]] | None = None,
        headless: bool = False,
        **divergence_options: Any,
    ) -> None:
        of_lens = {
            "norm": norm,
            "divergence": divergence,
            "beta": beta,
            "temperature": temperature,
            "scale_by_temperature_squared": scale_by_temperature_squared,
            "pair_weights": pair_weights,
            "detach_unembedding": detach_unembedding,
            "teacher_translators": teacher_translators,
            "readout": readout,
            "projection": projection,
            "projection_of": projection_of,
            "seed": seed,
            "positions": positions,
            "min_teacher_entropy": min_teacher_entropy,
            "weigh_by": weigh_by,
            **divergence_options,
        }
        self.terms = weighted_terms(
            lens_term(layers, of_lens),
            lens_weight,
            kd=kd,
            kd_weight=kd_weight,
            cross_entropy=cross_entropy,
            router_loss=router_loss,
            more=terms or {},
        )
        self.values: dict[str, Tensor] = {}
        self._chunk_rows = checked_chunk_rows(chunk_rows)
        self._attach(student, teacher, asks_router="router_loss" in self.terms)
        if headless:
            self._switch_heads_off()

    def _attach(self, student: nn.Module, teacher: nn.Module | None, *, asks_router: bool) -> None:
        all_terms = [weighted.term for weighted in self.terms.values()]
        own = Side("student", student, asks_router=asks_router)
        other = None if teacher is None else Side("teacher", teacher)
        if other is not None and other.plain is own.plain:
            raise DistillensError(
                "AttachedLens: student and teacher are one object, so that their forward passes "
                "cannot be told apart; load the teacher as a model of its own"
            )
        pairs = []
        for term in all_terms:
            if other is not None:
                pairs += term.pairs(own.lens.num_layers, other.lens.num_layers)
            elif term.needs_teacher:
                raise DistillensError(
                    f"AttachedLens: teacher is None, but {term.where} reads the teacher; give it, "
                    "or leave the term out"
                )
        link_projections(self.terms)
        for term in all_terms:
            if other is not None:
                check_teacher_files(term, other)
            term.prepare(student, teacher)
        own.attach([a for a, _ in pairs])
        sides = [own]
        if other is not None:
            other.attach([b for _, b in pairs])
            other.model.eval()
            sides.append(other)
        self._sides = sides
        # A lens that is dropped leaves no hooks behind.
        self._finalizer = weakref.finalize(self, _remove, sides)

    def loss(self, labels: Tensor, num_items_in_batch: Tensor | float | None = None) -> Tensor:
        """The weighted sum of all terms for the models' last forward passes, which it uses up.

        Under `torch.no_grad` it is the same value without a graph. With nothing supervised it is 0,
        with a graph that gives zeros.

        Args:
            labels: [B, T] token ids as transformers has them, not shifted; -100 is ignored.
            num_items_in_batch: what sums over supervised positions are divided by, as transformers'
                Trainer counts it over an accumulation window; None is this batch's own N.
        Returns:
            0-d, in float32 (float64 for float64 models).
        Raises:
            DistillensError: a model has not run since the last call, or ran on another batch.
        """
        self._check_attached()
        records = {side.role: side.recorded() for side in self._sides}
        labels = check_batch(labels, records["student"], records.get("teacher"))
        io_dicts = {side.role: side.take() for side in self._sides}
        positions, next_tokens = find_supervised(labels)
        targets: dict[str, object] = {
            "labels": labels,
            "positions": positions,
            "next_tokens": next_tokens,
        }
        if num_items_in_batch is not None:
            targets["num_supervised"] = _count(num_items_in_batch, labels)
        reading = Reading(io_dicts["student"], io_dicts.get("teacher", {}), targets)
        result = evaluate(self.terms, reading, chunk_rows=self._chunk_rows)
        self.values = {}
        for name, weighted in self.terms.items():
            self.values |= weighted.term.named_values(name)
        self.values |= result.values
        return result.loss  # type: ignore[return-value]

    @contextlib.contextmanager
    def headless(self) -> Iterator[None]:
        """Forward passes inside skip both models' heads: their logits are [B, 0, V].

        Raises:
            DistillensError: a hook reads a head's output, or (in the forward) the batch has labels.
        """
        self._check_attached()
        switched = [side for side in self._sides if not side.head.is_off]
        self._switch_heads_off()
        try:
            yield
        finally:
            for side in switched:
                side.head.on()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the terms train themselves (projections), by name: for your optimiser.

        Under DDP their gradients are this process's own; average them before a step.
        """
        return {
            f"{name}.{inner}": parameter
            for name, weighted in self.terms.items()
            for inner, parameter in weighted.term.trained().items()
        }

    def remove(self) -> None:
        """Takes all hooks off both models; calling it again changes nothing."""
        self._finalizer()

    def __enter__(self) -> "AttachedLens":
        self._check_attached()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _check_attached(self) -> None:
        if not self._finalizer.alive:
            raise DistillensError("AttachedLens: its hooks were removed; make a new one")

    def _switch_heads_off(self) -> None:
        for side in self._sides:
            side.head.off()


def _remove(sides: list[Side]) -> None:
    for side in sides:
        side.remove()


def _count(given: Tensor | float, labels: Tensor) -> Tensor | float:
    if isinstance(given, Tensor) and given.numel() == 1:
        return given.to(labels.device).reshape(())
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 <= given < math.inf:
        raise DistillensError(
            f"AttachedLens.loss: num_items_in_batch = {given!r}, expected a number of supervised "
            "tokens, or None"
        )
    return given
