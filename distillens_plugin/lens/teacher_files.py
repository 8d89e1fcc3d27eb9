"""Files of matrices for the layers of one teacher: their header, and the check that they fit.

Legend: D width, L blocks.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import whole_file

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Kind:
    """What such a file holds.

    Attributes:
        format: the key of its header.
        plural, singular: in the words of errors.
        command: of `distillens`, which writes it.
        verb, past: what that command does to make them.
    """

    format: str
    plural: str
    singular: str
    command: str
    verb: str = "make"
    past: str = "made"


@dataclass(frozen=True)
class TeacherFile:
    """The header of a file.

    Attributes:
        num_layers, width: of the teacher that it was made for.
        layers: those with a matrix; k is the residual stream after k blocks.
        weights: digest of that teacher's weights; None if it was not in a local folder.
        teacher: its name, or its folder then; None if unknown.
        adapter, adapter_weights: the same of the adapter that was merged into it, if there was one.
    """

    kind: Kind
    num_layers: int
    width: int
    layers: tuple[int, ...]
    weights: str | None = None
    teacher: str | None = None
    adapter: str | None = None
    adapter_weights: str | None = None

    def check(self, layers: Sequence[Any], num_layers: int, width: int, where: str) -> None:
        """Refuses another teacher, or layers without a matrix.

        The last layer (num_layers) needs none: the head reads it.
        """
        kind = self.kind
        if (self.num_layers, self.width) != (num_layers, width):
            raise DistillensError(
                f"{where}: these {kind.plural} are for {self.num_layers} layers of width "
                f"{self.width}, but the teacher has {num_layers} of width {width}; {kind.verb} "
                f"them with `distillens {kind.command}` on this teacher"
            )
        missing = [k for k in layers if k not in self.layers and k != num_layers]
        if missing:
            raise DistillensError(
                f"{where}: there is no {kind.singular} for the teacher's layer {missing[0]} "
                f"(found: {', '.join(map(str, self.layers))}); {kind.verb} one or choose other "
                "layers"
            )

    def check_weights(
        self, teacher: str | os.PathLike[str], where: str, *, adapter: str | None = None
    ) -> None:
        """Refuses a teacher of the same sizes whose layers are others.

        That is one in a local folder that has been trained further since, one with another name on
        the Hub, or one with another adapter or without the file's.

        Args:
            adapter: folder or Hub name of what is merged into it. Beside a file of a plain model
                nothing is compared: that may have been the merged one.
        """
        if self.adapter is None and adapter is not None:
            return
        if self.adapter is not None and adapter is None:
            raise self._made_on(
                f"{self.teacher} with the adapter {self.adapter}",
                f"the teacher is {os.fspath(teacher)} without one",
                where,
            )
        self.check_base(teacher, where)
        if self.adapter is not None and adapter is not None:
            self._compare(
                self.adapter, self.adapter_weights, adapter, where, who="the teacher's adapter"
            )

    def check_base(self, teacher: str | os.PathLike[str], where: str) -> None:
        """The same where nobody knows what was merged into the teacher since it was loaded."""
        self._compare(self.teacher, self.weights, os.fspath(teacher), where)

    def _compare(
        self,
        made_on: str | None,
        weights: str | None,
        given: str,
        where: str,
        *,
        who: str = "the teacher",
    ) -> None:
        kind = self.kind
        if weights is None:
            if made_on not in (None, given) and not _weight_files(given):
                raise self._made_on(str(made_on), f"{who} is {given}", where)
        elif weights_digest(given) not in (None, weights):
            raise DistillensError(
                f"{where}: these {kind.plural} were {kind.past} on other weights than those in "
                f"{given}; {kind.verb} them again with `distillens {kind.command}`"
            )

    def _made_on(self, what: str, found: str, where: str) -> DistillensError:
        kind = self.kind
        return DistillensError(
            f"{where}: these {kind.plural} were {kind.past} on {what}, but {found}; {kind.verb} "
            f"them on it with `distillens {kind.command}`"
        )


def teacher_notes(teacher: str, adapter: str | None) -> dict[str, str | None]:
    """What a file's notes say of the teacher that it was made on, as `TeacherFile` reads it.

    Args:
        teacher: folder or Hub name.
        adapter: the same of the adapter that is merged into it.
    """
    notes = {"teacher": teacher, "teacher_weights": weights_digest(teacher)}
    if adapter is None:
        return notes
    return {**notes, "adapter": adapter, "adapter_weights": weights_digest(adapter)}


def weights_digest(teacher: str | os.PathLike[str]) -> str | None:
    """Sixteen hexadecimal digits over the weights in a local folder; None if it has none."""
    facts = [(path, path.stat()) for path in _weight_files(teacher)]
    if not facts:
        return None
    return digest([_hash(path.absolute(), at.st_size, at.st_mtime_ns) for path, at in facts])


def _weight_files(teacher: str | os.PathLike[str]) -> list[Path]:
    folder = os.fspath(teacher)
    return sorted(p for p in Path(folder).glob("*") if folder and p.suffix in _WEIGHTS)


@lru_cache(maxsize=1024)
def _hash(path: Path, num_bytes: int, changed_at_ns: int) -> str:
    """Of a file; kept, since several files of matrices are held against one teacher."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: str | os.PathLike[str], kind: Kind, where: str) -> TeacherFile:
    """Reads a file's header.

    Raises:
        DistillensError: missing, or not a file that the kind's command wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            info = (file.metadata() or {}).get(kind.format)
        fields = json.loads(info) if info is not None else {}
        notes = fields.get("notes", {})
        return TeacherFile(
            kind,
            fields["num_layers"],
            fields["width"],
            tuple(fields["layers"]),
            notes.get("teacher_weights"),
            notes.get("teacher"),
            notes.get("adapter"),
            notes.get("adapter_weights"),
        )
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = "there is no such file" if not os.path.isfile(path) else "the file holds none"
        raise DistillensError(
            f"{where}: cannot read {kind.plural} from {os.fspath(path)}: {reason}; expected a file "
            f"that `distillens {kind.command}` wrote"
        ) from error


def save_layers(
    path: str | os.PathLike[str],
    kind: Kind,
    layers: Mapping[int, Mapping[str, Tensor]],
    *,
    num_layers: int,
    width: int,
    notes: Mapping[str, Any],
) -> None:
    """Writes the tensors of each layer; the file appears whole or not at all.

    Args:
        layers: by layer, tensors by name; float32 is written.
        num_layers, width: of the teacher.
        notes: what they were made of and how, for people; strict JSON.
    Raises:
        RunFailure: the file cannot be written.
    """
    tensors = {
        f"layers.{layer}.{name}": tensor.detach().float().cpu().contiguous()
        for layer, own in layers.items()
        for name, tensor in own.items()
    }
    fields = {"num_layers": num_layers, "width": width, "layers": sorted(layers)}
    # One entry: with several, safetensors writes them in an order that changes from run to run.
    metadata = {kind.format: json.dumps({**fields, "notes": dict(notes)}, allow_nan=False)}
    target = Path(path)
    try:
        with whole_file(target) as partial:
            save_file(tensors, partial, metadata=metadata)
    except SafetensorError as error:  # raised when the disk is full, among others
        raise RunFailure(f"{target}: cannot write the {kind.plural} ({error})") from error
