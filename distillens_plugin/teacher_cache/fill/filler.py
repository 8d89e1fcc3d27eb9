"""Chunk by chunk: an engine's states are checked, written, and only then are the next asked for.

A killed fill loses what has come since the last write, a minute's work at most beside the rows in
hand. Several may fill one folder at once, each into shards of its own.

Legend: N supervised positions of a row, D width.
"""

import os
import random
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.readout import Lens
from distillens_plugin.models.loading import load_teacher
from distillens_plugin.models.pretrained import DTYPES, checked_folder
from distillens_plugin.models.states_only import load_readout, not_reducible
from distillens_plugin.recipe.schema.models import TeacherSpec
from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates, StatesEngine
from distillens_plugin.teacher_cache.fill.rows import chunks
from distillens_plugin.teacher_cache.fill.self_check import SelfCheck
from distillens_plugin.teacher_cache.forward import FINAL
from distillens_plugin.teacher_cache.plan import Plan, free_bytes, shown_size, stored_bytes
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import RunFailure

# A slow engine takes hours for a chunk, and all of it must not be lost.
WRITE_EVERY_S = 60.0
# Without a terminal there is no bar, but a log that stands still looks like a hang.
SAY_EVERY_S = 60.0


class Filler:
    """Asks an engine for rows and stores what it gives.

    Args:
        numbers: the layer of each state, by name.
        last: number of the teacher's blocks, the layer before its final norm.
        torn: damaged shards, to be left alone.
        chunk_bytes: about what is computed at a time.
        claim: called before each shard is written; raises where the folder is no longer this
            engine's, since nothing holds others off on file systems without locks.

    Attributes:
        check: of the engine's states against its own probabilities.
    """

    def __init__(
        self,
        plan: Plan,
        numbers: dict[str, int],
        last: int,
        engine: StatesEngine,
        teacher: TeacherSpec,
        *,
        torn: Sequence[Path],
        chunk_bytes: int,
        claim: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._numbers = numbers
        self._last = last
        self._engine = engine
        self._dtype = DTYPES[teacher.dtype]
        self._lens = readout_of(teacher)
        self._chunk_bytes = chunk_bytes
        self._claim = claim
        self._said_at = time.monotonic()
        self.check = SelfCheck(self._lens, engine.identity)
        # Never the name of another writer's shard, on whatever machine.
        self._store = Store(plan.folder, dtype=plan.dtype, writer=_writer(), shard_bytes=2**62)
        self._store.refresh(without=torn)

    def fill(self, rows: Sequence[FillRow], *, alone: bool) -> int:
        """Stores the rows that are still missing; returns how many it computed.

        Args:
            alone: nobody else was at work here at the start.
        """
        num_filled = 0
        position_bytes = max(1, self._plan.num_bytes // max(1, self._plan.num_positions))
        waiting = list(chunks(rows, max(1, self._chunk_bytes // position_bytes)))
        # Machines that were given the same rows begin in different places; but the first of them
        # with the longest rows, so that it is told at once that these do not fit in memory.
        start = 0 if alone else random.randrange(len(waiting))
        shows = sys.stderr.isatty()
        with tqdm(total=len(rows), unit="row", disable=not shows, dynamic_ncols=True) as progress:
            for chunk in waiting[start:] + waiting[:start]:
                self._store.refresh()
                missing = set(self._store.missing([row.row_id for row in chunk]))
                wanted = [row for row in chunk if row.row_id in missing]
                progress.update(len(chunk) - len(wanted))
                if wanted:
                    needed = position_bytes * sum(len(row.positions) for row in wanted)
                    self._check_room(needed)
                    for num_stored in self._keep(wanted):
                        num_filled += num_stored
                        progress.update(num_stored)
                        if not shows:
                            self._say(num_filled, len(rows))
        return num_filled

    def _say(self, num_filled: int, num_rows: int) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            print(f"teacher cache: stored {num_filled:,} of {num_rows:,} missing rows", flush=True)

    def _check_room(self, needed: int) -> None:
        """Others may be writing too, so this is asked before each chunk."""
        folder = self._plan.folder
        there, free = stored_bytes(folder), free_bytes(folder)
        limit = self._plan.max_bytes
        if there + needed > limit or needed > free:
            reason = (
                f"{shown_size(free)} are free there"
                if needed > free
                else f"max_gb = {limit / 1e9:g}"
            )
            raise RunFailure(
                f"{folder}: holds {shown_size(there)}, and the next rows need "
                f"{shown_size(needed)}, but {reason}; what is stored stays, make room and repeat "
                "the command"
            )

    def _keep(self, rows: Sequence[FillRow]) -> Iterator[int]:
        """Asks for a chunk, checks what comes, and writes it; yields how many rows are stored."""
        layers = sorted({*self._numbers.values(), self._last})
        asked = {row.row_id: row for row in rows if row.positions}
        came: dict[str, RowStates] = {}
        since = None
        for result in self._engine.states(list(asked.values()), layers):
            self._check_shapes(result, asked)
            came[result.row_id] = result
            # Not from the first question on, which may load the engine for minutes.
            since = time.monotonic() if since is None else since
            if time.monotonic() - since >= WRITE_EVERY_S:
                yield self._write([asked[row_id] for row_id in came], came)
                came, since = {}, time.monotonic()
        if came:
            yield self._write([asked[row_id] for row_id in came], came)
        if lacking := self._store.missing(list(asked)):
            raise RunFailure(
                f"{self._engine.identity['engine']}: gave no states of {len(lacking)} rows, first "
                f"{lacking[0]!r}"
            )
        if empty := [row for row in rows if not row.positions]:
            self._keep_empty(empty)
            yield len(empty)

    def _write(self, rows: Sequence[FillRow], results: Mapping[str, RowStates]) -> int:
        """Checks rows as a whole and writes them to a shard of their own; returns their number."""
        finals = {row_id: self._final(r.states[self._last]) for row_id, r in results.items()}
        self.check.check(rows, results, finals)
        for row in rows:
            states = {FINAL: finals[row.row_id]}
            for name, layer in self._numbers.items():
                states[name] = results[row.row_id].states[layer].to("cpu", self._dtype)
            self._store.add([row.row_id], [len(row.positions)], states)
        self._claim()
        self._store.flush()
        return len(rows)

    def _keep_empty(self, rows: Sequence[FillRow]) -> None:
        """Rows of which nothing is supervised are part of a full cache."""
        anatomy = self._lens.anatomy
        head = self._lens.head().weight
        states = {FINAL: head.new_empty(0, anatomy.head_width, dtype=self._dtype)}
        for name in self._numbers:
            states[name] = head.new_empty(0, anatomy.width, dtype=self._dtype)
        self._store.add([row.row_id for row in rows], [0] * len(rows), states)
        self._claim()
        self._store.flush()

    def _final(self, last_ND: Tensor) -> Tensor:
        """[N, D_head] what the unembedding reads, from the last block's output."""
        return self._lens.apply_readout(last_ND.to("cpu", self._dtype), norm="final")

    def _check_shapes(self, result: RowStates, asked: Mapping[str, FillRow]) -> None:
        """An engine that gives other rows or positions must not be believed."""
        row, width = asked.get(result.row_id), self._lens.anatomy.width
        count = None if row is None else len(row.positions)
        found = {layer: tuple(rows.shape) for layer, rows in result.states.items()}
        wrong = [layer for layer, shape in found.items() if shape != (count, width)]
        if count is None or wrong:
            what = f"layer {wrong[0]} of shape {list(found[wrong[0]])}" if wrong else "states"
            raise RunFailure(
                f"{self._engine.identity['engine']}: gave {what} of row {result.row_id!r}, "
                f"expected [{count}, {width}]"
            )


def readout_of(teacher: TeacherSpec) -> Lens:
    """The teacher's final norm and unembedding, without its blocks where that is possible."""
    _, checked = checked_folder(teacher, where="models.teacher_model")
    if not_reducible(checked.config) is None:
        return lens_of(load_readout(teacher).model)
    # A lens keeps its own parts, and the blocks are forgotten with the model.
    return lens_of(load_teacher(teacher))


def _writer() -> str:
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
