"""Checks what transformers reports after loading weights: no parameter may stay random."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checkpoint_files import weights_file


def check_loaded(model: Any, report: Mapping[str, Any], folder: Path | str) -> None:
    """Refuses a model with parameters that the weights did not fill; reports unused tensors.

    Args:
        model: just loaded.
        report: what `from_pretrained(..., output_loading_info=True)` returns with the model.
        folder: of the weights, for the error.
    Raises:
        DistillensError: names the first parameter that is missing or of another shape.
    """
    name = type(model).__name__
    for key, found, expected in sorted(report.get("mismatched_keys") or []):
        raise DistillensError(
            f"{folder}: {key} has shape {list(found)}, expected {list(expected)} for {name}; "
            "config.json and the weights belong to different models"
        )
    if missing := sorted(report["missing_keys"]):
        raise DistillensError(
            f"{weights_file(Path(folder))}: {len(missing)} parameters of {name} are missing, first "
            f"{missing[0]}; they would stay random"
        )
    if unused := sorted(report.get("unexpected_keys") or []):
        print(
            f"{folder}: {name} has no place for {len(unused)} tensors of the weights, first "
            f"{unused[0]}; they are not used",
            file=sys.stderr,
        )
