"""The output folder of a run: claimed before anything expensive, filled so that nothing is half
there.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError, RunFailure

# What a run writes; `--overwrite` removes these and nothing else.
RECIPE, METRICS, SUMMARY, BEST, LAST, STATE, TRACKERS = (
    "recipe.yaml",
    "metrics.jsonl",
    "summary.json",
    "best",
    "last",
    "state",
    "trackers",
)
OWN = (RECIPE, METRICS, SUMMARY, BEST, LAST, STATE, TRACKERS)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds a run, or files that are no run's. Changes nothing.

    Args:
        overwrite: a run there is no mistake (it is to be replaced, or gone on with).

    Raises:
        DistillensError: see above, or the path is a file, or nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise DistillensError(f"output_dir: {folder} is a file; name a folder")
    entries = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    if any(name in OWN for name in entries):
        if not overwrite:
            raise DistillensError(
                f"output_dir: {folder} holds a run ({', '.join(n for n in entries if n in OWN)}); "
                "name another folder with --output_dir, go on with it by --resume, or replace it "
                "with --overwrite"
            )
    elif entries:
        raise DistillensError(
            f"output_dir: {folder} holds files that are no run's, such as {entries[0]}; "
            "name an empty "
            "or new folder with --output_dir"
        )
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    probe = existing / ".distillens-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DistillensError(
            f"output_dir: cannot write to {existing} ({error.strerror}); name another folder with "
            "--output_dir"
        ) from error


def clear(folder: Path) -> None:
    """Makes the folder and removes an earlier run from it; call it when all else is ready."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in OWN:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise RunFailure(f"output_dir: cannot prepare {folder} ({error})") from error


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json: results, settings and versions of a finished run."""
    partial = folder / f".{SUMMARY}.partial"
    try:
        partial.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(folder / SUMMARY)
    except OSError as error:
        raise RunFailure(f"{folder / SUMMARY}: cannot write the summary ({error})") from error
