"""How the gradient of the lens at a layer pair compares with that of plain distillation.

Legend: B rows of a batch, T tokens, N supervised positions, V vocabulary, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillens_plugin.divergences import Divergence, ForwardKL
from distillens_plugin.fused import Group, Head, walk
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.output import LensOutput, rows_at
from distillens_plugin.lens.streams import recorded_streams
from distillens_plugin.lens_maps.batches import Batch
from distillens_plugin.reports.lens_record import PairGradient


class Streams:
    """The rows of one model's supervised positions at some layers.

    Attributes:
        layers: [N, D] by layer, before any norm.
        final: [N, D_head], what the head reads.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        layers: Sequence[Layer],
    ) -> None:
        self.model = model
        rows: dict[Layer, list[Tensor]] = {}
        final = []
        for batch, supervised in batches:
            output, streams = _run(model, batch, layers)
            self.lens = output.lens
            final.append(output.final_rows(supervised))
            for layer, stream in streams.items():
                rows.setdefault(layer, []).append(rows_at(stream, supervised))
        self.final = torch.cat(final)
        self.layers = {layer: torch.cat(parts) for layer, parts in rows.items()}

    def read(self, layer: Layer, norm: str) -> Tensor:
        """[N, D_head], one layer as the unembedding takes it."""
        return self.lens.apply_readout(self.layers[layer], norm=norm)


def _run(
    model: nn.Module, batch: dict[str, Tensor], layers: Sequence[Layer]
) -> tuple[LensOutput, dict[Layer, Tensor]]:
    with recorded_streams(model, layers, lens_of(model).blocks_path) as seen:
        return forward(model, batch), {layer: seen[layer] for layer in layers}


class Pulls:
    """Compares gradients in one student, whose forward pass must have kept the graph."""

    def __init__(
        self,
        student: Streams,
        teacher: Streams,
        divergence: Divergence,
        temperature: float,
        *,
        detach_unembedding: bool = False,
    ) -> None:
        """Takes the lens's divergence and temperature, and whether it reaches the unembedding."""
        self.student, self.teacher = student, teacher
        self.divergence, self.temperature = divergence, temperature
        self.heads = student.lens.head(), teacher.lens.head()
        self.parameters = [p for p in student.model.parameters() if p.requires_grad]
        head = {id(p) for p in student.lens.head_parameters()}
        self._is_head = [id(p) in head for p in self.parameters]
        self._reaches_head = not detach_unembedding
        loss = self._loss(student.final, teacher.final, ForwardKL())
        self._reference = self._gradients(loss)

    def of(self, pair: tuple[Layer, Layer], norm: str) -> PairGradient:
        """What the lens does at one pair."""
        a, b = pair
        loss = self._loss(
            self.student.read(a, norm),
            self.teacher.read(b, norm),
            self.divergence,
            self.temperature,
        )
        rows = self.student.layers[a]
        (pull,) = torch.autograd.grad(loss, rows, retain_graph=True)
        unembedding, others = (
            _compare(own, reference)
            for own, reference in zip(self._gradients(loss), self._reference, strict=True)
        )
        if not self._reaches_head:
            unembedding = None
        share = radial_share(pull, rows.detach())
        return PairGradient(pair, norm, loss.item(), share, unembedding, others)

    def _loss(
        self,
        student_rows: Tensor,
        teacher_rows: Tensor,
        divergence: Divergence,
        temperature: float = 1.0,
    ) -> Tensor:
        group = Group(
            "one", student_rows, divergence, teacher_rows.detach(), temperature=temperature
        )
        heads: tuple[Head, Head] = self.heads
        return walk([group], *heads).loss

    def _gradients(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for parameter, gradient, is_head in zip(self.parameters, found, self._is_head, strict=True):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            parts[0 if is_head else 1].append(gradient.flatten().float())
        empty = self.student.final.new_zeros(0)
        return torch.cat([empty, *parts[0]]), torch.cat([empty, *parts[1]])


def radial_share(gradient: Tensor, rows: Tensor) -> float:
    """Of the squared gradient [N, D], the part along the rows [N, D] themselves; 0 if all is 0."""
    along = (gradient * F.normalize(rows, dim=-1)).sum(-1).square().sum()
    total = gradient.square().sum()
    return (along / total).item() if total > 0 else 0.0


def _compare(own: Tensor, reference: Tensor) -> tuple[float, float] | None:
    # The reference is 0 where both models give the same logits: nothing to compare with.
    if own.numel() == 0 or not reference.any():
        return None
    cosine = F.cosine_similarity(own, reference, dim=0)
    return (own.norm() / reference.norm()).item(), cosine.item()
