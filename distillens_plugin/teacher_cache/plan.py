"""What a cache will hold and how large it will be, before anything is written."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdistill.common.main_util import import_dependencies
from torchdistill.losses.registry import get_high_level_loss

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.experiment.checks import check_lengths
from distillens_plugin.lens.layers import Layer
from distillens_plugin.losses.term import terms_of
from distillens_plugin.recipe.full_form import BlockFacts, full_form
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.codec import bytes_per_row
from distillens_plugin.teacher_cache.forward import FINAL, state_name
from distillens_plugin.teacher_cache.model_facts import PairFacts
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from distillens_plugin.experiment.experiment import Experiment

_GB = 1e9


@dataclass(frozen=True)
class Plan:
    """What goes into the cache of an experiment.

    Attributes:
        folder: of the cache.
        where: the recipe's key, for errors.
        states: names of the residual streams that the losses read; `final` comes on top.
        layers: of these, as the recipe names them.
        row_ids: of all training rows.
        num_positions: supervised positions of all training rows.
        num_bytes: size of the whole cache, without headers and indexes (about 1 %).
    """

    folder: Path
    where: str
    states: tuple[str, ...]
    layers: tuple[Layer, ...]
    row_ids: tuple[str, ...]
    num_positions: int
    num_bytes: int
    dtype: str
    max_gb: float | None

    def describe(self) -> str:
        """One line: size, place, and the disk's free space."""
        return (
            f"teacher cache: {self.num_positions:,} supervised positions x {len(self.states) + 1} "
            f"states ({self.dtype}) = {shown_size(self.num_bytes)} in {self.folder}, "
            f"{shown_size(free_bytes(self.folder))} free there"
        )

    @property
    def place(self) -> str:
        """Key and folder, for errors about what lies there."""
        return f"{self.where}.path: {self.folder}"

    @property
    def max_bytes(self) -> float:
        """What the folder may hold."""
        return float("inf") if self.max_gb is None else self.max_gb * _GB

    def check_size(self, stored_bytes: int) -> None:
        """Refuses what the limit or the disk does not allow.

        Args:
            stored_bytes: already in the folder.
        Raises:
            DistillensError: too large.
        """
        # Rows that were stored twice count as well.
        if self.num_bytes <= self.max_bytes < stored_bytes:
            raise DistillensError(
                f"{self.where}: {self.folder} holds {shown_size(stored_bytes)}, more than "
                f"max_gb = {self.max_gb:g}; raise it"
            )
        needed = max(self.num_bytes, stored_bytes)
        if needed > self.max_bytes:
            raise DistillensError(
                f"{self.where}: the teacher cache needs {shown_size(needed)}, more than "
                f"max_gb = {self.max_gb:g}; raise it, set dtype: int8, or keep fewer rows or layers"
            )
        remaining, free = self.num_bytes - stored_bytes, free_bytes(self.folder)
        if remaining > free:
            raise DistillensError(
                f"{self.where}: the teacher cache needs {shown_size(remaining)} more in "
                f"{self.folder}, and only {shown_size(free)} are free there; name a path on "
                "another disk, set dtype: int8, or keep fewer rows or layers"
            )


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds, or will hold, a folder."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def shown_size(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"


def plan_teacher_cache(experiment: "Experiment") -> Plan:
    """The plan of an experiment whose recipe has `teacher_cache:`; writes nothing.

    Raises:
        DistillensError: something reads more of the teacher than the cache keeps, row ids repeat,
            or the cache would be too large.
    """
    recipe, anatomy = experiment.recipe, experiment.teacher_anatomy
    assert anatomy is not None  # the schema refuses a cache without a teacher
    where = recipe.where("teacher_cache")
    _check_teacher(recipe, where)
    _check_terms(experiment.box.criterion, where)
    states = states_of(experiment.box.criterion, experiment.student_anatomy.num_layers, anatomy)
    return make_plan(recipe, experiment.train, states, (anatomy.width, anatomy.head_width))


def plan_from_configs(recipe: Recipe, examples: InstructionDataset, facts: PairFacts) -> Plan:
    """The same plan without weights and without a box.

    Raises:
        DistillensError: as `plan_teacher_cache` does, or a row is longer than a model's positions,
            which a run finds out before that.
    """
    where = recipe.where("teacher_cache")
    _check_teacher(recipe, where)
    for role, model in (("student", facts.student), ("teacher", facts.teacher)):
        check_lengths(role, model.num_positions, examples, recipe.where("datasets.train"))
    import_dependencies([dep.model_dump(exclude_none=True) for dep in recipe.dependencies])
    criterion = get_high_level_loss(
        full_form(recipe, facts.student, facts.teacher)["train"]["criterion"]
    )
    _check_terms(criterion, where)
    states = states_of(criterion, facts.student.num_layers, facts.teacher)
    return make_plan(recipe, examples, states, (facts.teacher.width, facts.head_width))


def make_plan(
    recipe: Recipe,
    examples: InstructionDataset,
    states: Mapping[str, Layer],
    widths: tuple[int, int],
) -> Plan:
    """A plan that has passed its checks.

    Args:
        states: layer by name, as `states_of` gives them.
        widths: D of the residual stream and of what the unembedding reads.
    """
    settings = recipe.teacher_cache
    assert settings is not None  # the callers have one
    where = recipe.where("teacher_cache")
    row_ids = _row_ids(examples, where)
    num_positions = sum(_num_supervised(example["labels"]) for example in _items(examples))
    width, head_width = widths
    row_bytes = bytes_per_row(head_width, settings.dtype)
    row_bytes += len(states) * bytes_per_row(width, settings.dtype)
    plan = Plan(
        folder=Path(settings.path),
        where=where,
        states=tuple(states),
        layers=tuple(states.values()),
        row_ids=row_ids,
        num_positions=num_positions,
        num_bytes=num_positions * row_bytes,
        dtype=settings.dtype,
        max_gb=settings.max_gb,
    )
    plan.check_size(stored_bytes(plan.folder))
    return plan


def stored_bytes(folder: Path) -> int:
    """What the shards of a cache take on disk."""
    return sum(path.stat().st_size for path in folder.glob("shard-*.safetensors"))


def _check_teacher(recipe: Recipe, where: str) -> None:
    """What the recipe says about the teacher's part in the box."""
    given = recipe.train.teacher
    if given is None:
        return
    if given.requires_grad:
        raise DistillensError(
            f"{where}: the teacher is trained (train.teacher.requires_grad), so its states change; "
            "delete teacher_cache"
        )
    if given.forward_proc not in (None, "distillens.forward"):
        raise DistillensError(
            f"{where}: the cache keeps hidden states only; set train.teacher.forward_proc: "
            "distillens.forward or delete teacher_cache"
        )


def _check_terms(criterion: object, where: str) -> None:
    for name, weighted in terms_of(criterion).items():
        if weighted.term.needs.activations:
            raise DistillensError(
                f"{where}: sub-term {name} ({weighted.term.where}) reads the teacher's own "
                "activations, which the cache does not keep; delete it or teacher_cache"
            )


def states_of(criterion: object, student_layers: int, teacher: BlockFacts) -> dict[str, Layer]:
    """The residual streams of the teacher that all terms read: layer by name, each once, sorted."""
    found: dict[str, Layer] = {}
    for weighted in terms_of(criterion).values():
        for _, layer in weighted.term.pairs(student_layers, teacher.num_layers):
            found[state_name(layer, teacher.blocks or "")] = layer
    assert FINAL not in found
    return dict(sorted(found.items()))


def _row_ids(examples: InstructionDataset, where: str) -> tuple[str, ...]:
    given = [example.get("id") for example in _items(examples)]
    if None in given:
        raise DistillensError(
            f"{where}: training row {given.index(None)} has no id, but the cache finds rows by "
            "their ids; give each row its own id or delete teacher_cache"
        )
    row_ids = tuple(map(str, given))
    row_id, times = Counter(row_ids).most_common(1)[0]
    if times > 1:
        raise DistillensError(
            f"{where}: {times} training rows have the id {row_id!r}, but the cache finds rows by "
            "their ids; give each row its own id or delete teacher_cache"
        )
    return row_ids


def _items(examples: InstructionDataset) -> Iterator[Mapping[str, Any]]:
    return (examples[index] for index in range(len(examples)))


def _num_supervised(labels: list[int]) -> int:
    # The first token is nobody's next token.
    return sum(label != IGNORED for label in labels[1:])
