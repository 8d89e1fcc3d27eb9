"""The states of a teacher by row id: rows of this process in memory, then shards on disk.

Legend: N supervised positions of a batch, D width of a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distillens_plugin.teacher_cache.codec import PARTS, decode, encode
from distillens_plugin.teacher_cache.shards import ShardIndex, read_index, shard_paths, write_shard
from eval_harness.errors import RunFailure

# Large enough for few files (21 GB are 84), small enough to be lost without regret.
SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Place:
    """Where a row is stored: a slice of one shard's tensors, or of a batch not yet written."""

    tensors: dict[str, Tensor]
    start: int
    stop: int


class Store:
    """Reads and writes the states of rows.

    Args:
        folder: of the cache.
        dtype: `bfloat16` or `int8`.
        writer: of its shards' names; each process that writes has a name of its own.
        shard_bytes: rows are written to disk whenever this many bytes have accumulated.
    """

    def __init__(
        self, folder: Path, *, dtype: str, writer: str = "0", shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.folder = folder
        self.dtype = dtype
        self.writer = writer
        self.shard_bytes = shard_bytes
        self._dtypes: dict[str, str] = {}
        self._places: dict[str, _Place] = {}
        self._shards: set[Path] = set()
        self._pending: dict[str, _Place] = {}
        self._pending_bytes = 0

    def missing(self, row_ids: Sequence[str]) -> list[str]:
        """Those of the rows that are not in the store."""
        return [i for i in row_ids if i not in self._places and i not in self._pending]

    def refresh(self, *, without: Sequence[Path] = ()) -> None:
        """Finds the shards that other processes have written.

        Args:
            without: shards to leave aside, since they are damaged.
        """
        self._shards.update(without)
        for path in shard_paths(self.folder):
            if path not in self._shards:
                self._take(path, read_index(path))

    def _take(self, path: Path, index: ShardIndex) -> None:
        # Memory-mapped: the tensors are views of the file, and only rows that are read are loaded.
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        start = 0
        for row_id, count in index.rows:
            self._places[row_id] = _Place(tensors, start, start + count)
            start += count
        self._dtypes |= index.dtypes
        self._shards.add(path)

    def add(self, row_ids: Sequence[str], counts: Sequence[int], states: dict[str, Tensor]) -> None:
        """Adds the rows of a batch that are not stored yet.

        Args:
            row_ids: of the rows of the batch.
            counts: supervised positions of each row.
            states: [N, D] tensors by name, the rows' positions one after the other.
        Raises:
            RunFailure: the disk is full or the folder cannot be written.
        """
        new = set(self.missing(row_ids))
        positions = _positions(row_ids, counts, new)
        tensors: dict[str, Tensor] = {}
        for name, rows in states.items():
            kept = rows.index_select(0, positions.to(rows.device))
            tensors |= {k: v.cpu() for k, v in encode(name, kept, self.dtype).items()}
            self._dtypes[name] = str(rows.dtype).removeprefix("torch.")
        start = 0
        for row_id, count in zip(row_ids, counts, strict=True):
            if row_id in new:
                new.remove(row_id)
                self._pending[row_id] = _Place(tensors, start, start + count)
                start += count
        self._pending_bytes += sum(tensor.nbytes for tensor in tensors.values())
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Writes the rows in memory to a shard of their own.

        Raises:
            RunFailure: the disk is full or the folder cannot be written.
        """
        if not self._pending:
            return
        places = list(self._pending.values())
        rows = [(i, place.stop - place.start) for i, place in self._pending.items()]
        tensors = {name: _gather(places, name) for name in places[0].tensors}
        path = self._next_path()
        try:
            index = write_shard(path, tensors, rows, self._dtypes)
        except OSError as error:
            raise RunFailure(
                f"{path}: cannot write the teacher's states ({str(error).strip()}); what was "
                "written before is intact, and the next run resumes from there"
            ) from error
        self._pending, self._pending_bytes = {}, 0
        self._take(path, index)

    def _next_path(self) -> Path:
        number = 0
        while (path := self.folder / f"shard-{self.writer}-{number:05d}.safetensors").exists():
            number += 1
        return path

    def read(
        self, row_ids: Sequence[str], device: torch.device, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """[N, D] of these states (None: of all) by name, in the type in which the teacher computed
        them.

        Every value has been through the store's own type, whether it was read from disk or has just
        been added: an epoch that fills a cache sees what an epoch that reads it sees.
        """
        names = list(self._dtypes) if names is None else names
        places = [self._pending.get(i) or self._places[i] for i in row_ids]
        if any(place.tensors.keys() != places[0].tensors.keys() for place in places):
            # Shards of an older version, which stored int8 otherwise, beside new ones.
            parts = [self._decoded([place], device, names) for place in places]
            return {name: torch.cat([part[name] for part in parts]) for name in names}
        return self._decoded(places, device, names)

    def _decoded(
        self, places: Sequence[_Place], device: torch.device, names: Sequence[str]
    ) -> dict[str, Tensor]:
        # Of a cache that holds more than is asked for, the rest stays on the disk.
        wanted = places[0].tensors.keys() & {name + part for name in names for part in PARTS}
        stored = {name: _gather(places, name).to(device) for name in wanted}
        return {name: decode(name, stored, getattr(torch, self._dtypes[name])) for name in names}


def _positions(row_ids: Sequence[str], counts: Sequence[int], wanted: set[str]) -> Tensor:
    """Which of a batch's positions belong to the wanted rows; of a row met twice, the first."""
    left = set(wanted)
    chosen: list[int] = []
    start = 0
    for row_id, count in zip(row_ids, counts, strict=True):
        if row_id in left:
            left.remove(row_id)
            chosen.extend(range(start, start + count))
        start += count
    return torch.tensor(chosen, dtype=torch.int64)


def _gather(places: Sequence[_Place], name: str) -> Tensor:
    return torch.cat([place.tensors[name][place.start : place.stop] for place in places])
