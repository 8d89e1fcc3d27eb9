"""Opens the cache that a recipe names and puts it between the box and its teacher."""

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedModel

from distillens_plugin.sharding.pieces import is_in_pieces
from distillens_plugin.storage.main_process import on_main_process
from distillens_plugin.teacher_cache.choice import (
    fill_command,
    holds_other_states,
    missing_rows,
    refuse_to_complete,
)
from distillens_plugin.teacher_cache.fingerprint import (
    FINGERPRINT,
    Fingerprint,
    FingerprintOne,
    engine_of,
    format_of,
    hash_config,
    hash_rows,
    hash_weights,
    read_fingerprint,
    unread_states,
)
from distillens_plugin.teacher_cache.folder import (
    forget_leftover,
    open_folder,
    write_fingerprint,
)
from distillens_plugin.teacher_cache.forward import CachingForward
from distillens_plugin.teacher_cache.identity import make_fingerprint
from distillens_plugin.teacher_cache.plan import Plan, plan_teacher_cache, stored_bytes
from distillens_plugin.teacher_cache.shards import delete_shard, delete_unfinished, find_torn
from distillens_plugin.teacher_cache.store import SHARD_BYTES, Store
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock

if TYPE_CHECKING:
    from distillens_plugin.experiment.experiment import Experiment


# Whoever takes a full cache holds it alone for a moment; a shared folder's listing may be late.
_PATIENCE_S = 10.0


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
        torn = on_main_process(self._accelerator, lambda: self._open(experiment))
        if not (plan.folder / FINGERPRINT).exists():
            raise DistillensError(
                f"{plan.where}.path: process {self._accelerator.process_index} cannot see "
                f"{plan.folder}, which the first process made; name a folder that all processes see"
            )
        self.store = Store(
            plan.folder,
            dtype=plan.dtype,
            writer=str(self._accelerator.process_index),
            shard_bytes=shard_bytes,
        )
        self.store.refresh(without=torn)
        if experiment.readout is not None or unread_states(
            plan.states, read_fingerprint(plan.folder)
        ):
            self._see_all_rows(torn)
        self._share_if_full()
        box = experiment.box
        self.forward = CachingForward(
            box.teacher_forward_proc, self.store, plan.states, box.teacher_io_dict
        )

    def _see_all_rows(self, torn: list[Path]) -> None:
        """The main process has seen a full cache, to which nobody can add: wait for its listing.

        Raises:
            DistillensError: this process still sees less.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while missing := self.store.missing(self.plan.row_ids):
            if time.monotonic() > deadline:
                raise DistillensError(
                    f"{self.plan.where}.path: process {self._accelerator.process_index} sees "
                    f"{len(missing):,} rows fewer in {self.plan.folder} than the first process; "
                    "name a folder that all processes see alike"
                )
            time.sleep(min(0.5, _PATIENCE_S))
            self.store.refresh(without=torn)

    def _open(self, experiment: "Experiment") -> list[Path]:
        """On the main process: lock, compare fingerprints, delete damaged shards.

        Returns:
            Damaged shards that are still there, since others read the folder too.
        """
        plan = self.plan
        folder = plan.folder
        # A full cache is held beside others from the first moment: runs may start together.
        beside = _looks_full(plan)
        lock = self._take_lock(beside=beside)
        if lock.exclusive:
            forget_leftover(folder)
        stored = read_fingerprint(folder)
        own = _fingerprint(experiment, plan, stored)
        if stored is not None and (different := own.differences(stored)):
            raise holds_other_states(plan, different)
        torn = find_torn(folder)
        if torn and beside:
            lock = self._alone_if_possible(lock)
            torn = find_torn(folder)
        if lock.exclusive:
            self._delete(torn)
            torn = []
            if stored is None:
                stored = write_fingerprint(folder, own.to_json())
            plan.check_size(stored_bytes(folder))
        num_rows = len(plan.row_ids)
        num_missing = len(missing_rows(folder, plan.row_ids))
        if num_missing:
            self._refuse_to_add(experiment, own, stored)
        self.lines.append(
            f"teacher cache: {num_rows - num_missing:,} of {num_rows:,} rows are stored; "
            + ("the teacher runs for the others" if num_missing else "the teacher will not run")
        )
        return torn

    def _take_lock(self, *, beside: bool) -> FolderLock:
        self._lock = open_folder(
            self.plan.folder,
            self.plan.where,
            remedy="it fills this cache; wait for its first epoch to end, or name another path",
            patience_s=_PATIENCE_S if beside else 0.0,
        )
        if beside:
            self._lock.share()
        return self._lock

    def _alone_if_possible(self, lock: FolderLock) -> FolderLock:
        """To mend a damaged cache; another run that has just found the same may be first."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            lock.close()
            # Two that wait alike would meet again.
            time.sleep(random.uniform(0.0, 0.3))
            lock = self._take_lock(beside=False)
            if lock.exclusive or time.monotonic() > deadline:
                return lock

    def _refuse_to_add(
        self, experiment: "Experiment", own: Fingerprint | FingerprintOne, stored: object
    ) -> None:
        """Raises if this run cannot compute the rows that the cache lacks."""
        where, folder = f"{self.plan.where}.path", self.plan.folder
        assert self._lock is not None  # the caller has it
        refuse_to_complete(self.plan, stored)
        if not self._lock.exclusive:
            raise DistillensError(
                f"{where}: {folder} lacks rows, and other runs are reading it, or filling it, so "
                "the rows cannot be added; wait for these runs or name another path"
            )
        if isinstance(own, Fingerprint) and (different := own.engine_differences(stored)):
            raise DistillensError(
                f"{where}: {folder} lacks rows, and was filled by another engine "
                f"({'; '.join(different)}); {fill_command(experiment.recipe, engine_of(stored))}"
            )
        if experiment.readout is not None:
            raise DistillensError(
                f"{where}: {folder} has lost rows since this run began; start it again"
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


def _looks_full(plan: Plan) -> bool:
    """By the shards' indexes alone, which takes no time."""
    if read_fingerprint(plan.folder) is None:
        return False
    return not missing_rows(plan.folder, plan.row_ids, thorough=False)


def _fingerprint(
    experiment: "Experiment", plan: Plan, stored: object
) -> Fingerprint | FingerprintOne:
    """This run's own, in the format of what is stored."""
    recipe, teacher = experiment.recipe, experiment.teacher
    if not isinstance(stored, dict) or format_of(stored, plan.place) == 2:
        return make_fingerprint(recipe, experiment.train, plan.states)
    assert teacher is not None  # the schema refuses a cache without a teacher
    if experiment.readout is not None or is_in_pieces(teacher):
        raise DistillensError(
            f"{plan.where}.path: {plan.folder} was filled by an older version, which compared the "
            "whole teacher; name another path, and fill it with distillens cache"
        )
    return FingerprintOne(
        teacher=hash_weights(teacher),
        config=hash_config(cast(PreTrainedModel, teacher).config),
        rows=hash_rows(experiment.train),
        template=recipe.datasets.train.template,
        states=plan.states,
        dtype=plan.dtype,
        precision=recipe.mixed_precision,
    )
