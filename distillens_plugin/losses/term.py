"""`Term`, the one base of this package's loss terms, and their evaluation on a batch.

A term states which layers it compares (`pairs`), what else it reads (`needs`), what it trains
itself (`prepare`, `trained`), and its loss: groups of rows for the fused walk (`groups`) or a
number of its own (`value`). Callers never check a term's type; `as_term` makes one of any loss.

Legend: N supervised positions, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from distillens_plugin.fused import Group
from distillens_plugin.lens.layers import Layer, pair_shares, resolve_pairs
from distillens_plugin.lens.output import IoDict
from distillens_plugin.lens.teacher_files import TeacherFile
from distillens_plugin.losses.needs import Needs, zeros_through
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.walks import walk_in_type

# As written in a recipe: two lists of equal length, or {"auto": K}.
LayerSpec = Mapping[str, int | Sequence[Layer]]


@dataclass(frozen=True)
class Part:
    """One named number of a term that computes its own value; it adds weight * value."""

    name: str
    value: Tensor
    weight: float = 1.0


class Term(nn.Module):
    """A mid-level loss of torchdistill. A subclass overrides `groups` or `value`, and `needs`.

    Args:
        layers: `{student: [...], teacher: [...]}` with layer numbers (k is the residual stream
            after k blocks, 0 the embeddings) or module paths, or `{auto: K}` for K pairs by
            relative depth. None: the term compares no layers.
        pair_weights: one weight >= 0 per pair, normalised to sum to 1; None weighs all equally.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.

    Attributes:
        default_name: the name of its values in `last_values`.
        needs: what it reads besides its layers.
        needs_teacher: whether it reads the teacher at all.
        readout: whose head its groups' student rows are read by, `student` or `teacher`.
        loss_scale: a factor of its groups in the loss, which its logged values leave out.
        last_values: after a forward pass, each group's or part's value by name, `name` or
            `name/1-2` for a layer pair (0-d tensors, detached).
    """

    default_name = "term"
    needs_teacher = True
    readout = "student"
    loss_scale = 1.0

    def __init__(
        self,
        layers: LayerSpec | None = None,
        *,
        pair_weights: Sequence[float] | None = None,
        chunk_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.pair_weights = pair_weights
        self.chunk_rows = chunk_rows
        self.last_values: dict[str, Tensor] = {}

    @property
    def where(self) -> str:
        """The name that error messages begin with: its key in a recipe."""
        return type(self).__name__

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def has_maps(self) -> bool:
        """Whether other terms may use its trained projections (`projection_of`)."""
        return False

    def teacher_files(self) -> dict[str, TeacherFile]:
        """Headers of the files that it reads and that were made on one teacher, by parameter."""
        return {}

    def pairs(self, student_layers: int, teacher_layers: int) -> list[tuple[Layer, Layer]]:
        """The (student layer, teacher layer) pairs for models of these depths.

        Raises:
            DistillensError: layers out of range, or lists that do not pair up.
        """
        if self.layers is None:
            return []
        where = f"{self.where}.layers"
        return resolve_pairs(self.layers, student_layers, teacher_layers, where=where)

    def weighted_pairs(self, reading: Reading) -> list[tuple[Layer, Layer, float]]:
        """Student layer, teacher layer and share of each pair; the shares sum to 1."""
        pairs = self.pairs(reading.student.lens.num_layers, reading.teacher.lens.num_layers)
        shares = pair_shares(self.pair_weights, len(pairs), self.where)
        return [(a, b, share) for (a, b), share in zip(pairs, shares, strict=True)]

    def groups(self, reading: Reading) -> list[Group]:
        """The rows whose next-token distributions it compares; empty if it has its own value."""
        return []

    def value(self, reading: Reading) -> Tensor:
        """A 0-d mean over the batch's N supervised positions; N is at least 1."""
        raise NotImplementedError

    def parts(self, reading: Reading) -> list[Part]:
        """The named numbers of a term without groups; here `value` alone."""
        if reading.supervised.positions.numel() == 0:
            # The mean of nothing is NaN; zero, with a graph.
            return [Part(self.default_name, _sum(zeros_through(reading.student, Needs())))]
        with torch.autocast(reading.student.device.type, enabled=False):
            return [Part(self.default_name, reading.share_of_window * self.value(reading))]

    def anchor(self, reading: Reading) -> Tensor | None:
        """Zero, with a graph to what the term alone would leave without a gradient.

        DDP waits for the gradient of every parameter, also of blocks above the last layer that is
        read and of an unembedding that is not. An empty slice costs nothing and gives them zeros.
        """
        zeros = zeros_through(reading.student, self.needs)
        return _sum(zeros) if zeros else None

    def named_values(self, name: str) -> dict[str, Tensor]:
        """The last values for the log: `name` in the recipe, or `name/1-2` for a layer pair."""
        return {
            f"{name}/{own.partition('/')[2]}" if "/" in own else name: value
            for own, value in self.last_values.items()
        }

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Builds what the term itself trains; called before each epoch, so it must be repeatable.

        By default it moves the term's parameters to the student's device.
        """
        self.to(next(student.parameters()).device)

    def trained(self) -> dict[str, nn.Parameter]:
        """What the term itself trains, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def forward(
        self,
        student_io_dict: IoDict,
        teacher_io_dict: IoDict,
        targets: object,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """The term alone, as torchdistill's WeightedSumLoss calls it."""
        reading = Reading(student_io_dict, teacher_io_dict, targets)
        terms = {self.default_name: WeightedTerm(self, 1.0)}
        return torch.as_tensor(evaluate(terms, reading, chunk_rows=self.chunk_rows).loss)


class ForeignTerm(Term):
    """Someone else's mid-level loss: a mean over its batch of whatever it reads.

    Args:
        loss: takes torchdistill's (student_io_dict, teacher_io_dict, targets).
    """

    needs = Needs(activations=True)

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def where(self) -> str:
        return type(self.loss).__name__

    def parts(self, reading: Reading) -> list[Part]:
        value = self.loss(reading.student_io, reading.teacher_io, reading.targets)
        return [Part(self.default_name, value * reading.share_of_window)]

    def anchor(self, reading: Reading) -> Tensor | None:
        """None: it is unknown which parameters it reaches and whether distillens.forward ran."""
        return None

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Leaves the loss on its device."""

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.loss.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class WeightedTerm:
    """A term of a weighted sum, with its factor."""

    term: Term
    factor: float


def as_term(loss: nn.Module) -> Term:
    """Any mid-level loss as a term. The only place that asks what a loss is."""
    return loss if isinstance(loss, Term) else ForeignTerm(loss)


def terms_of(criterion: object) -> dict[str, WeightedTerm]:
    """The terms of torchdistill's high-level loss by their names in the recipe.

    Empty for someone else's loss without a `term_dict`.
    """
    found: Mapping[str, tuple[nn.Module, float]] = getattr(criterion, "term_dict", {})
    return {name: WeightedTerm(as_term(loss), factor) for name, (loss, factor) in found.items()}


@dataclass
class Evaluated:
    """Terms on a batch.

    Attributes:
        loss: weighted sum, with a graph; 0.0 without terms.
        values: each term's unweighted value by its name, detached.
    """

    loss: Tensor | float = 0.0
    values: dict[str, Tensor] = field(default_factory=dict)


def evaluate(
    terms: Mapping[str, WeightedTerm], reading: Reading, *, chunk_rows: int | None
) -> Evaluated:
    """All terms on one batch: the groups of all in one walk, then the values of the others.

    Groups that share the student's rows share one product with the vocabulary, and all of them one
    gradient of the unembedding. Those that are read by the teacher's head have a walk of their own.
    The least of `chunk_rows`, the rows at a time, and the terms' own counts.
    """
    groups = {name: weighted.term.groups(reading) for name, weighted in terms.items()}
    result = Evaluated()
    for readout in ("student", "teacher"):
        walked = {n: w for n, w in terms.items() if groups[n] and w.term.readout == readout}
        if walked:
            found = _walk(walked, groups, reading, readout, chunk_rows)
            result.loss = result.loss + found.loss
            result.values |= found.values
    for name, weighted in terms.items():
        if groups[name]:
            continue
        parts = weighted.term.parts(reading)
        weighted.term.last_values = {part.name: part.value.detach() for part in parts}
        value = _sum([part.weight * part.value for part in parts])
        result.values[name] = value.detach()
        result.loss = result.loss + weighted.factor * value
    result.loss = result.loss + _anchors([weighted.term for weighted in terms.values()], reading)
    return result


def _walk(
    terms: Mapping[str, WeightedTerm],
    groups: Mapping[str, list[Group]],
    reading: Reading,
    readout: str,
    chunk_rows: int | None,
) -> Evaluated:
    factors = {name: w.factor * w.term.loss_scale for name, w in terms.items()}
    # Two terms of one kind would otherwise meet under one name.
    renamed = [
        replace(group, name=_full_name(name, group), weight=group.weight * factors[name])
        for name in terms
        for group in groups[name]
    ]
    limits = [chunk_rows, *(weighted.term.chunk_rows for weighted in terms.values())]
    least = min((limit for limit in limits if limit is not None), default=None)
    walked = walk_in_type(renamed, reading, readout, least)
    values: dict[str, Tensor] = {}
    for name, weighted in terms.items():
        own = [(group, walked.values[_full_name(name, group)]) for group in groups[name]]
        weighted.term.last_values = {group.name: value for group, value in own}
        values[name] = torch.stack([group.weight * value for group, value in own]).sum()
    return Evaluated(walked.loss, values)


def _full_name(term: str, group: Group) -> str:
    return f"{term}:{group.name}"


def _anchors(terms: list[Term], reading: Reading) -> Tensor | float:
    """The terms' anchors, unless the terms together reach every parameter already."""
    if any(t.needs.final_states for t in terms) and any(t.needs.unembedding for t in terms):
        return 0.0
    return sum((zero for term in terms if (zero := term.anchor(reading)) is not None), 0.0)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return sum(tensors[1:], tensors[0])
