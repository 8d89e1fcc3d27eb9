"""What wandb has written about an offline run: its file of records, and the tables beside it."""

import json
import struct
import time
from pathlib import Path
from typing import Any

_BLOCK = 32768  # the file is a log as LevelDB writes them
_FILE_HEADER, _HEADER = 7, 7
_FULL, _LAST = 1, 4


def records(folder: Path) -> list[Any]:
    """The records, protocol buffers, of the one run below `folder`; it must be finished."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(200):
        found = _records(file.read_bytes())
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)  # wandb's own process writes the last part after `finish`
    raise AssertionError(f"{file} does not end")


def _records(content: bytes) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    found, pieces, place = [], b"", _FILE_HEADER
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += _HEADER
        pieces += content[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(pieces)
            found.append(record)
            pieces = b""
    return found


def logged(folder: Path) -> dict[str, dict[str, Any]]:
    """History, summary and config by key, and of the artifacts with a name type and files."""
    found: dict[str, dict[str, Any]] = {"history": {}, "summary": {}, "config": {}, "artifacts": {}}
    for record in records(folder):
        found["history"] |= _items(record.history.item)
        found["summary"] |= _items(record.summary.update)
        found["config"] |= _items(record.run.config.update) | _items(record.config.update)
        artifact = record.artifact
        if artifact.name and artifact.type != "run_table":
            files = [entry.path for entry in artifact.manifest.contents]
            found["artifacts"][artifact.name] = (artifact.type, files)
    for key in [key for key in found["history"] if key.startswith("_")]:
        del found["history"][key]
    return found


def table(folder: Path, path: str) -> dict[str, Any]:
    """Columns and rows of a table, by the path in the history."""
    (file,) = folder.glob(f"wandb/offline-run-*/files/{path}")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _items(updates: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}
