"""What a cache will hold and how large it will be, before anything is written."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.readout import Anatomy
from distillens_plugin.losses.box import Box
from distillens_plugin.losses.term import terms_of
from distillens_plugin.teacher_cache.codec import bytes_per_row
from distillens_plugin.teacher_cache.forward import FINAL, state_name
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
        row_ids: of all training rows.
        num_positions: supervised positions of all training rows.
        num_bytes: size of the whole cache, without headers and indexes (about 1 %).
    """

    folder: Path
    where: str
    states: tuple[str, ...]
    row_ids: tuple[str, ...]
    num_positions: int
    num_bytes: int
    dtype: str
    max_gb: float | None

    def describe(self) -> str:
        """One line: size, place, and the disk's free space."""
        return (
            f"teacher cache: {self.num_positions:,} supervised positions x {len(self.states) + 1} "
            f"states ({self.dtype}) = {_size(self.num_bytes)} in {self.folder}, "
            f"{_size(free_bytes(self.folder))} free there"
        )

    def check_size(self, stored_bytes: int) -> None:
        """Refuses what the limit or the disk does not allow.

        Args:
            stored_bytes: already in the folder.
        Raises:
            DistillensError: too large.
        """
        if self.max_gb is not None and self.num_bytes > self.max_gb * _GB:
            raise DistillensError(
                f"{self.where}: the teacher cache needs {_size(self.num_bytes)}, more than "
                f"max_gb = {self.max_gb:g}; raise it, set dtype: int8, or keep fewer rows or layers"
            )
        remaining, free = self.num_bytes - stored_bytes, free_bytes(self.folder)
        if remaining > free:
            raise DistillensError(
                f"{self.where}: the teacher cache needs {_size(remaining)} more in {self.folder}, "
                f"and only {_size(free)} are free there; name a path on another disk, set "
                "dtype: int8, or keep fewer rows or layers"
            )


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds, or will hold, a folder."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"


def plan_teacher_cache(experiment: "Experiment") -> Plan:
    """The plan of a recipe with `teacher_cache:`; writes nothing.

    Raises:
        DistillensError: something reads more of the teacher than the cache keeps, row ids repeat,
            or the cache would be too large.
    """
    recipe, anatomy = experiment.recipe, experiment.teacher_anatomy
    settings = recipe.teacher_cache
    assert settings is not None
    assert anatomy is not None  # the schema refuses a cache without a teacher
    where = recipe.where("teacher_cache")
    _check_readers(experiment.box, where)
    row_ids = _row_ids(experiment.train, where)
    states = _states(experiment.box.criterion, experiment.student_anatomy.num_layers, anatomy)
    num_positions = sum(_num_supervised(example["labels"]) for example in _items(experiment.train))
    width = bytes_per_row(anatomy.head_width, settings.dtype)
    width += len(states) * bytes_per_row(anatomy.width, settings.dtype)
    plan = Plan(
        folder=Path(settings.path),
        where=where,
        states=states,
        row_ids=row_ids,
        num_positions=num_positions,
        num_bytes=num_positions * width,
        dtype=settings.dtype,
        max_gb=settings.max_gb,
    )
    plan.check_size(stored_bytes(plan.folder))
    return plan


def stored_bytes(folder: Path) -> int:
    """What the shards of a cache take on disk."""
    return sum(path.stat().st_size for path in folder.glob("shard-*.safetensors"))


def _check_readers(box: Box, where: str) -> None:
    if box.teacher_updatable:
        raise DistillensError(
            f"{where}: the teacher is trained (train.teacher.requires_grad), so its states change; "
            "delete teacher_cache"
        )
    if box.teacher_forward_proc is not forward:
        raise DistillensError(
            f"{where}: the cache keeps hidden states only; set train.teacher.forward_proc: "
            "distillens.forward or delete teacher_cache"
        )
    for name, weighted in terms_of(box.criterion).items():
        if weighted.term.needs.activations:
            raise DistillensError(
                f"{where}: sub-term {name} ({weighted.term.where}) reads the teacher's own "
                "activations, which the cache does not keep; delete it or teacher_cache"
            )


def _states(criterion: object, student_layers: int, anatomy: Anatomy) -> tuple[str, ...]:
    """Names of the residual streams that all terms read, each once."""
    names: dict[str, None] = {}
    for weighted in terms_of(criterion).values():
        for _, layer in weighted.term.pairs(student_layers, anatomy.num_layers):
            names[state_name(layer, anatomy.blocks)] = None
    assert FINAL not in names
    return tuple(sorted(names))


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
