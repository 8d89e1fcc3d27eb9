"""What a run learns from, by content: data, models and other files that its recipe only names.

The same paths can hold other rows or another teacher by the time a run is resumed. So a
fingerprint is written when the run starts, kept with its state, and compared on --resume. What
changes rounding only (threads, versions, device) is kept too, and reported.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.streaming import TrainingData, first_examples
from distillens_plugin.recipe.schema.models import ModelSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage.model_card import versions
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import files_digest

Fingerprint = dict[str, Any]
# What is loaded from a model's own repository, at its `revision`.
_AT_REVISION = ("name_or_path", "init.teacher")


def make_fingerprint(
    recipe: Recipe,
    train: TrainingData,
    validation: InstructionDataset | None,
    device: torch.device,
) -> Fingerprint:
    """The fingerprint, as plain values for JSON: hashes of local files, commits on the Hub.

    Args:
        device: the one that trains.
    Raises:
        DistillensError: a file that the recipe names cannot be read.
    """
    return {
        "data": {
            # The rows of a stream that were trained on are compared when it is read again.
            "datasets.train": _rows(first_examples(train)),
            "datasets.validation": None if validation is None else _rows(validation),
        },
        "files": {key: _content(key, *place) for key, place in _places(recipe)},
        "surroundings": {
            "device": _device_name(device),
            "threads": torch.get_num_threads(),
            **versions(),
        },
    }


def check_same_inputs(before: Fingerprint, now: Fingerprint, folder: Path) -> None:
    """Refuses to resume a run whose data, models or files have changed.

    Raises:
        DistillensError: names everything that has changed.
    """
    changes = [
        f"{key}: {change}"
        for key, rows in now["data"].items()
        if (change := _change_of_rows(before["data"].get(key), rows)) is not None
    ]
    for key in {**before["files"], **now["files"]}:
        old, new = before["files"].get(key), now["files"].get(key)
        # A commit that was unknown offline says nothing.
        if old is not None and new is not None and not _same(old, new):
            changes.append(f"{key}: {old} then, {new} now{_remedy(key, old)}")
    if changes:
        raise DistillensError(
            f"--resume: the run in {folder} started with other content ({'; '.join(changes)}); "
            "restore that, or start over with --overwrite"
        )


def _same(old: str, new: str) -> bool:
    """Earlier versions kept the first 12 characters of a commit."""
    return new.startswith(old) or old.startswith(new)


def _remedy(key: str, old: str) -> str:
    """What brings a commit on the Hub back; nothing does so for local content."""
    kind, _, commit = old.partition(" ")
    if kind != "commit":
        return ""
    _, role, place = key.split(".", 2)
    return f": --set models.{role}.revision={commit}" if place in _AT_REVISION else ""


def changed_surroundings(before: Fingerprint, now: Fingerprint) -> str | None:
    """What has changed since the run started and may change rounding, in one line, or None."""
    old, new = before["surroundings"], now["surroundings"]
    changes = [
        f"{name} {old.get(name, 'unknown')} then, {value} now"
        for name, value in new.items()
        if old.get(name) != value
    ]
    if not changes:
        return None
    return (
        f"note: changed since this run started: {'; '.join(changes)}; rounding may differ, so the "
        "weights may differ slightly from those of an uninterrupted run"
    )


def _rows(dataset: InstructionDataset) -> dict[str, Any]:
    """Hashes over ids, tokens, labels and references; the second one ignores order."""
    in_order, in_any_order = hashlib.sha256(), 0
    for index, row in enumerate(dataset.rows):
        example = dataset[index]
        digest = hashlib.sha256(f"{row.id}\n{len(example['input_ids'])}\n".encode())
        digest.update(array("q", example["input_ids"]).tobytes())
        digest.update(array("q", example["labels"]).tobytes())
        digest.update(json.dumps(row.references).encode())
        in_order.update(digest.digest())
        in_any_order += int.from_bytes(digest.digest(), "big")
    return {
        "rows": len(dataset),
        "in_order": in_order.hexdigest(),
        "in_any_order": f"{in_any_order % 2**256:064x}",
    }


def _change_of_rows(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str | None:
    if old is None or new is None:
        return None if old is new else "it was added or removed"
    if old["rows"] != new["rows"]:
        return f"{old['rows']:,} rows then, {new['rows']:,} now"
    if old["in_any_order"] != new["in_any_order"]:
        return "its rows have other texts or ids"
    if old["in_order"] != new["in_order"]:
        return "its rows are in another order"
    return None


def _places(recipe: Recipe) -> Iterator[tuple[str, tuple[str, str | None, str]]]:
    """Each key that names files: the place, its revision, and a file that a Hub repository has."""
    models = recipe.models
    for role in ("teacher_model", "student_model", "model"):
        spec: ModelSpec | None = getattr(models, role)
        if spec is None:
            continue
        init = getattr(spec, "init", None)
        named = {
            "name_or_path": (getattr(spec, "name_or_path", None), "config.json"),
            "adapter": (spec.adapter, "adapter_config.json"),
            "tokenizer": (spec.tokenizer, "tokenizer_config.json"),
            "init.teacher": (init.teacher if init is not None else None, "config.json"),
        }
        for key, (place, file) in named.items():
            if place is not None:
                # peft's adapters are loaded from the main branch.
                revision = None if key == "adapter" else spec.revision
                yield f"models.{role}.{key}", (place, revision, file)
    for name, paired in recipe.layer_terms():
        for key, path in paired.teacher_files.items():
            yield (
                f"train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.{key}",
                (path, None, ""),
            )


def _content(key: str, place: str, revision: str | None, file: str) -> str | None:
    """A digest of local content, or the commit on the Hub; None where that is unknown."""
    path = Path(place)
    try:
        if path.is_dir():
            return f"content {files_digest(path)}"
        if path.is_file():
            with path.open("rb") as stream:
                return f"content {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
    except OSError as error:
        raise DistillensError(f"{key}: {place} cannot be read ({error.strerror})") from error
    return _commit(place, revision, file) if file else None


def _commit(name: str, revision: str | None, file: str) -> str | None:
    """The commit that loading `name` would use now, from the Hub or its cache."""
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, file, revision=revision))
    except Exception:  # loading the model says what is wrong with it
        return None
    parts = path.parts
    return f"commit {parts[parts.index('snapshots') + 1]}" if "snapshots" in parts else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
