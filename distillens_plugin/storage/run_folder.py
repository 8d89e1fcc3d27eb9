"""The output folder of a run: claimed before anything expensive, never left half filled."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.exchange import recover, remove
from eval_harness.shared.files.lock import LOCK_NAME

# What a run writes; `--overwrite` removes these and nothing else.
RECIPE, FINGERPRINT, METRICS = "recipe.yaml", "fingerprint.json", "metrics.jsonl"
# How it ended: one of the two, or neither.
SUMMARY, DIVERGED = "summary.json", "diverged.json"
BEST, LAST, STATE, STATE_BEFORE, TRACKERS, PUSHED = (
    "best",
    "last",
    "state",
    "state_before",
    "trackers",
    "pushed.json",
)
# Layer pairs that were measured, what the lens read as the run went on, answers, and the pages.
PAIRS, LENS, ANSWERS, REPORT = "layer_pairs.json", "lens.jsonl", "answers.jsonl", "report"
# Files that grow line by line; a resumed run cuts them back to what its state has of them.
GROWING = (METRICS, LENS, ANSWERS)
OWN = (
    *(RECIPE, FINGERPRINT, METRICS, SUMMARY, DIVERGED, BEST, LAST, STATE, STATE_BEFORE),
    *(TRACKERS, PUSHED, PAIRS, LENS, ANSWERS, REPORT),
)
_REPLACED = (BEST, LAST, STATE, STATE_BEFORE)
# Present while an earlier run is removed: what lies beside it belongs to no run.
_CLEARING = ".clearing"
_TRACKERS_ASIDE = f".{TRACKERS}.replaced"


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds a run, or files of something else. Changes nothing.

    Args:
        overwrite: a run there is expected: it will be replaced or resumed.
    Raises:
        DistillensError: see above, or the path is a file, or the folder is not writable.
    """
    existing = _nearest_folder(folder)
    names = [entry.name for entry in folder.iterdir()] if existing == folder else []
    entries = sorted(name for name in names if name != LOCK_NAME)
    own = [name for name in entries if _is_own(name)]
    if own:
        if not overwrite:
            raise DistillensError(
                f"output_dir: {folder} holds a run ({', '.join(own)}); continue it with --resume, "
                "replace it with --overwrite, or name another folder with --output_dir"
            )
    elif entries:
        raise DistillensError(
            f"output_dir: {folder} holds files that no run wrote, such as {entries[0]}; name an "
            "empty or new folder with --output_dir"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DistillensError(
            f"output_dir: cannot write to {existing}; name another folder with --output_dir"
        )


def _nearest_folder(folder: Path) -> Path:
    """The folder itself if it exists, else the nearest existing one above it."""
    for path in (folder, *folder.absolute().parents):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DistillensError(
                f"output_dir: cannot use {str(folder)[:200]!r} ({reason}); name another folder "
                "with --output_dir"
            ) from error
        if not path.is_dir():
            raise DistillensError(f"output_dir: {path} is a file; name a folder")
        return path
    raise DistillensError(f"output_dir: {folder} has no folder above it; name another one")


def _is_own(name: str) -> bool:
    """Whether a run writes it, or leaves it behind when killed."""
    return name in OWN or name == _CLEARING or any(name.startswith(f".{own}.") for own in OWN)


@contextmanager
def trackers_anew(folder: Path) -> Iterator[None]:
    """For a block that starts a new run's trackers while an earlier run is still there.

    That run's tracker files are set aside, for `cleared` to remove. If the block fails, or is
    killed, they come back, and the earlier run is as it was.

    Raises:
        RunFailure: the files cannot be moved.
    """
    trackers = folder / TRACKERS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put_trackers_back(folder)
        if trackers.exists():
            trackers.rename(folder / _TRACKERS_ASIDE)
    except OSError as error:
        raise RunFailure(f"output_dir: cannot prepare {folder} ({error})") from error
    try:
        yield
    except BaseException:
        remove(trackers)
        _put_trackers_back(folder)
        raise


def _put_trackers_back(folder: Path) -> None:
    aside = folder / _TRACKERS_ASIDE
    if aside.exists():
        remove(folder / TRACKERS)
        aside.rename(folder / TRACKERS)


@contextmanager
def cleared(folder: Path, *, keep: Collection[str] = ()) -> Iterator[None]:
    """Makes the folder and removes an earlier run from it; call it when all else is ready.

    The block writes the new run's first files. Until it has ended without an error,
    `is_half_cleared` is true of the folder, so a kill leaves no mixture that looks like a run.

    Args:
        keep: names of what is the new run's already.
    Raises:
        RunFailure: the folder cannot be made or cleared.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CLEARING).touch()
        for path in list(folder.iterdir()):
            if not _is_own(path.name) or path.name in (_CLEARING, *keep):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        yield
        (folder / _CLEARING).unlink()
    except OSError as error:
        raise RunFailure(f"output_dir: cannot prepare {folder} ({error})") from error


def is_half_cleared(folder: Path) -> bool:
    """Whether the process that was removing an earlier run ended before it was done."""
    return (folder / _CLEARING).exists()


def tidy(folder: Path) -> list[str]:
    """Tidies up after a killed run: restores folders set aside, removes unfinished files.

    Only the process that holds the folder's lock may call it.

    Returns:
        A line for each folder that was restored.
    Raises:
        RunFailure: a file cannot be moved or removed.
    """
    if not folder.is_dir():
        return []
    try:
        back = [name for name in _REPLACED if recover(folder / name)]
        _put_trackers_back(folder)
        for path in folder.iterdir():
            if path.name not in (*OWN, _CLEARING) and _is_own(path.name) and path.is_file():
                path.unlink()
    except OSError as error:
        raise RunFailure(f"output_dir: cannot tidy {folder} ({error})") from error
    return [f"{folder / name}: had been set aside by a killed run; restored" for name in back]


def remove_states(folder: Path) -> None:
    """A finished run keeps none."""
    for state in (STATE, STATE_BEFORE):
        remove(folder / state)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json: results, settings and versions of a finished run."""
    write_json(folder / SUMMARY, summary)
