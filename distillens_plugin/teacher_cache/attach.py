"""Opens the cache that a recipe names and puts it between the box and its teacher."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedModel

from distillens_plugin.storage.main_process import on_main_process
from distillens_plugin.teacher_cache.fingerprint import (
    Fingerprint,
    hash_config,
    hash_rows,
    hash_weights,
)
from distillens_plugin.teacher_cache.forward import CachingForward
from distillens_plugin.teacher_cache.plan import Plan, plan_teacher_cache, stored_bytes
from distillens_plugin.teacher_cache.shards import delete_shard, delete_unfinished, find_torn
from distillens_plugin.teacher_cache.store import SHARD_BYTES, Store
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_text
from eval_harness.shared.files.lock import FolderLock

if TYPE_CHECKING:
    from distillens_plugin.experiment.experiment import Experiment

FINGERPRINT = "fingerprint.json"


class TeacherCache:
    """A cache at work in a box.

    Attributes:
        lines: to be printed before training.
        forward: the box's new forward procedure of the teacher.
    """

    def __init__(self, experiment: "Experiment", plan: Plan, shard_bytes: int) -> None:
        self.plan = plan
        self.lines: list[str] = [plan.describe()]
        self._accelerator = experiment.accelerator
        self._lock: FolderLock | None = None
        try:
            self._attach(experiment, shard_bytes)
        except DistillensError:
            self.close()
            raise

    def _attach(self, experiment: "Experiment", shard_bytes: int) -> None:
        plan = self.plan
        on_main_process(self._accelerator, lambda: self._open(experiment))
        if not (plan.folder / FINGERPRINT).exists():
            raise DistillensError(
                f"{plan.where}.path: process {self._accelerator.process_index} cannot see "
                f"{plan.folder}, which the first process made; name a folder that all processes see"
            )
        self.store = Store(
            plan.folder,
            dtype=plan.dtype,
            rank=self._accelerator.process_index,
            shard_bytes=shard_bytes,
        )
        self.store.refresh()
        self._share_if_full()
        box = experiment.box
        self.forward = CachingForward(
            box.teacher_forward_proc, self.store, plan.states, box.teacher_io_dict
        )

    def _open(self, experiment: "Experiment") -> None:
        """On the main process: lock, compare fingerprints, delete damaged shards."""
        plan = self.plan
        folder = plan.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder, plan.where)
            lock = FolderLock(
                folder,
                name="lock",
                where=f"{plan.where}.path",
                remedy="it fills this cache; wait for its first epoch to end, or name another path",
            )
            lock.acquire(or_share=True)
            self._lock = lock
        except OSError as error:
            raise DistillensError(
                f"{plan.where}.path: cannot write to {folder} ({error.strerror}); name another path"
            ) from error
        fingerprint = make_fingerprint(experiment, plan)
        stored = _stored_fingerprint(folder)
        if stored is not None and (different := fingerprint.differences(stored)):
            raise DistillensError(
                f"{plan.where}.path: {folder} holds other states ({'; '.join(different)}); name "
                "another path or delete that folder"
            )
        torn = find_torn(folder)
        store = Store(folder, dtype=plan.dtype)
        if self._lock.exclusive:
            self._delete(torn)
            if stored is None:
                write_text(folder / FINGERPRINT, fingerprint.to_json())
            plan.check_size(stored_bytes(folder))
            store.refresh()
        elif not torn:
            store.refresh()
        num_missing = len(store.missing(plan.row_ids))
        if num_missing and not self._lock.exclusive:
            raise DistillensError(
                f"{plan.where}.path: {folder} lacks rows, and other runs are reading it, so the "
                "rows cannot be added; wait for these runs or name another path"
            )
        num_rows = len(plan.row_ids)
        self.lines.append(
            f"teacher cache: {num_rows - num_missing:,} of {num_rows:,} rows are stored; "
            + ("the teacher runs for the others" if num_missing else "the teacher will not run")
        )

    def _delete(self, torn: list[Path]) -> None:
        delete_unfinished(self.plan.folder)
        for path in torn:
            delete_shard(path)
            self.lines.append(
                f"warning: teacher cache: {path} is truncated, damaged or unfinished; its rows "
                "will be computed again"
            )

    def end_epoch(self) -> None:
        """Writes what this process holds; afterwards every process sees the rows of all."""
        self.store.flush()
        self._accelerator.wait_for_everyone()
        self.store.refresh()
        self._share_if_full()

    def _share_if_full(self) -> None:
        if self._lock is not None and not self.store.missing(self.plan.row_ids):
            self._lock.share()

    def close(self) -> None:
        """Releases the folder's lock, as the end of the process does too."""
        if self._lock is not None:
            self._lock.close()


def attach_teacher_cache(
    experiment: "Experiment", *, shard_bytes: int = SHARD_BYTES
) -> TeacherCache:
    """Lets an experiment's box read its teacher from the cache of its recipe.

    Args:
        experiment: built, with `teacher_cache` in its recipe.
        shard_bytes: approximate size of one file on disk.
    Raises:
        DistillensError: the cache does not fit the recipe, is too large, or is in use.
    """
    cache = TeacherCache(experiment, plan_teacher_cache(experiment), shard_bytes)
    box = experiment.box
    box.teacher_forward_proc = cache.forward
    # torchdistill sets its processes on the class; on the instance ours stays with this box.
    end_of_epoch = box.post_epoch_process

    def post_epoch_process(*args: object, **kwargs: object) -> None:
        end_of_epoch(*args, **kwargs)
        cache.end_epoch()

    box.post_epoch_process = post_epoch_process
    return cache


def make_fingerprint(experiment: "Experiment", plan: Plan) -> Fingerprint:
    """Of the teacher, the training rows and the settings of an experiment."""
    teacher = experiment.teacher
    assert teacher is not None  # the schema refuses a cache without a teacher
    return Fingerprint(
        teacher=hash_weights(teacher),
        config=hash_config(cast(PreTrainedModel, teacher).config),
        rows=hash_rows(experiment.train),
        template=experiment.recipe.datasets.train.template,
        states=plan.states,
        dtype=plan.dtype,
        precision=experiment.recipe.mixed_precision,
    )


def _stored_fingerprint(folder: Path) -> object | None:
    path = folder / FINGERPRINT
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "unreadable"


def _refuse_foreign(folder: Path, where: str) -> None:
    """A folder with somebody's files in it is not a cache: never write among them."""
    if (folder / FINGERPRINT).exists():
        return
    # A process that was killed while it wrote the fingerprint leaves the file's beginning.
    own = ("lock", f".{FINGERPRINT}.")
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(own)]
    if foreign:
        raise DistillensError(
            f"{where}.path: {folder} is not a teacher cache (it holds {sorted(foreign)[0]}); name "
            "an empty or a new folder"
        )
