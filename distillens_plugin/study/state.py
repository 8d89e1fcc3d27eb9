"""What a run's folder says: nothing yet, done, or done under something else.

<run>/run.json      fingerprint and resolved recipe, written before training starts
<run>/train/        the runner's output folder; its summary.json, written last, says it is done;
                    a run that was cut off goes on from its last whole epoch
<run>/evaluation/<protocol>/   eval-harness's output; done.json, written last, says it is done
<run>/log.txt       what the commands printed
"""

import json
import shutil
from pathlib import Path
from typing import Any

from distillens_plugin import output
from distillens_plugin.study.plan import Run
from eval_harness.atomic import write_json
from eval_harness.errors import DistillensError, RunFailure

RUN, LOG, DONE = "run.json", "log.txt", "done.json"


def is_trained(run: Run, *, overwrite: bool) -> bool:
    """Whether the run is there already, under this very recipe.

    Args:
        overwrite: a run under another recipe counts as not there (and is replaced when it starts).
    Raises:
        DistillensError: it is there under another recipe; names the first key that differs.
    """
    if not (run.train_folder / output.SUMMARY).is_file():
        return False
    stored = read_json(run.folder / RUN)
    if stored.get("fingerprint") == run.fingerprint:
        return True
    if overwrite:
        return False
    raise DistillensError(
        f"{run.folder}: done under another recipe ({_difference(stored, run)}); "
        "put the study back, name another folder with --output_dir, or train what has changed "
        "again with --overwrite"
    )


def start(run: Run) -> None:
    """Notes what is about to be trained in the run's folder, which is emptied.

    A run under this very recipe that was cut off is kept, to be gone on with.
    """
    if read_json(run.folder / RUN).get("fingerprint") == run.fingerprint:
        return
    try:
        if run.folder.exists():
            shutil.rmtree(run.folder)
        run.folder.mkdir(parents=True)
    except OSError as error:
        raise RunFailure(f"{run.folder}: cannot be prepared: {error.strerror}") from error
    note = {"fingerprint": run.fingerprint, "command": run.command(), "resolved": run.resolved}
    write_json(run.folder / RUN, note)


def summary(run: Run) -> dict[str, Any]:
    """The summary of a trained run."""
    return read_json(run.train_folder / output.SUMMARY)


def metrics(run: Run) -> list[dict[str, Any]]:
    """The records of a trained run's metrics.jsonl."""
    text = (run.train_folder / output.METRICS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def validation_nll(run: Run, checkpoint: str = "best") -> float | None:
    """Validation loss of a trained run's `best` or `last` model, in nats per response token."""
    found = summary(run)
    if checkpoint == "last":
        return found["validation_loss_after"]
    steps = {entry["step"]: entry["validation_loss"] for entry in found["validation"]}
    return steps.get(found["best_step"])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that the study wrote; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DistillensError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DistillensError(f"{path}: expected a JSON object")
    return content


def last_line(log: Path) -> str:
    """What a failed command said last."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    said = [line.rpartition("\r")[2].strip() for line in lines]
    return next((line for line in reversed(said) if line), "it said nothing")


def _difference(stored: dict[str, Any], run: Run) -> str:
    before = stored.get("resolved", {})
    for key in [*run.resolved, *before]:
        old, new = before.get(key, "not there"), run.resolved.get(key, "not there")
        if old != new:
            return f"{key} was {json.dumps(old)} and is {json.dumps(new)}"
    return "its run.json is missing or older"
