"""The JSON objects that a study keeps, read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from eval_harness.shared.files.typed_json import Count, Number, read_object

EXPECTED = "expected what a study writes there; delete the file, or restore it from a copy"


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Validation(_Record):
    step: Count
    validation_loss: Number


class SummaryFile(_Record):
    """What a study reads of a run's summary.json."""

    num_steps: Count
    train_seconds: Number
    seconds: Number
    # Runs of older versions have none.
    seconds_per_step: Number | None = None
    peak_memory_bytes: Count
    validation: list[_Validation]
    best_step: Count | None
    validation_loss_after: Number | None


class MetricsRecord(_Record):
    """What a study reads of a line of metrics.jsonl."""

    step: Count
    validation_loss: Number | None = None


class DoneFile(_Record):
    """done.json of an evaluation."""

    fingerprint: str
    seconds: Number


class _Steps(_Record):
    key: str
    num_steps: Annotated[int, Field(ge=1, le=2**53)]
    clock_seconds_per_step: Number
    seconds_per_step: Number


class StepsFile(_Record):
    """equal_compute.json, put under one key."""

    methods: dict[str, _Steps]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that the study wrote; empty if the file does not exist.

    Raises:
        DistillensError: the file is damaged; names it.
    """
    return read_object(path, expected=EXPECTED) if path.is_file() else {}


def first_difference(before: Any, now: Mapping[str, Any]) -> str:
    """The first key that differs between two sets of settings, for people."""
    if not isinstance(before, dict):
        return "its record is missing or older"
    for key in [*now, *before]:
        old, new = before.get(key, "not there"), now.get(key, "not there")
        if old != new:
            return f"{key} was {json.dumps(old)} and is {json.dumps(new)}"
    return "its record is missing or older"
