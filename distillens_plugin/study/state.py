"""What a run's folder says: nothing yet, trained, or trained under another recipe.

<run>/run.json      fingerprint and resolved recipe, written before training starts
<run>/train/        the runner's output folder; its summary.json, written last, says it is done;
                    an interrupted run resumes from its last state
<run>/evaluation/<protocol>/   eval-harness's output; done.json, written last, says it is done
<run>/log.txt       what the commands printed
"""

import shutil
from typing import Any

from distillens_plugin.recipe.yaml_tags import SavedRecipeLoader
from distillens_plugin.storage import run_folder
from distillens_plugin.study.plan import Run
from distillens_plugin.study.records import (
    EXPECTED,
    MetricsRecord,
    SummaryFile,
    first_difference,
    read_json,
)
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.files.strict_yaml import read_mapping
from eval_harness.shared.files.typed_json import check

RUN, LOG, DONE = "run.json", "log.txt", "done.json"


def is_trained(run: Run, *, overwrite: bool) -> bool:
    """Whether the run has been trained already, under this very recipe.

    Args:
        overwrite: a run under another recipe counts as missing (and is replaced when it starts).
    Raises:
        DistillensError: it was trained under another recipe; names the first key that differs.
    """
    if not (run.train_folder / run_folder.SUMMARY).is_file():
        return False
    stored = read_json(run.folder / RUN)
    if stored.get("fingerprint") == run.fingerprint:
        return True
    if overwrite:
        return False
    differing = first_difference(stored.get("resolved"), run.resolved)
    raise DistillensError(
        f"{run.folder}: trained under another recipe ({differing}); change the study back, name "
        "another folder with --output_dir, or train the changed runs again with --overwrite"
    )


def has_diverged(run: Run) -> bool:
    """Whether the run has been tried under this very recipe, and its loss was not finite."""
    if not (run.train_folder / run_folder.DIVERGED).is_file():
        return False
    return read_json(run.folder / RUN).get("fingerprint") == run.fingerprint


def check_resumes(run: Run, *, overwrite: bool) -> None:
    """Refuses an interrupted run whose teacher cache was added or removed since.

    The fingerprint does not count caches, since what they hold is the same, but a run does not
    resume with one that it did not have (see `training.resume`).

    Args:
        overwrite: such a run starts over.
    Raises:
        DistillensError: says what to do.
    """
    if overwrite or not _is_interrupted(run) or not _has_other_cache(run):
        return
    has, had = ("one", "without") if run.recipe.teacher_cache is not None else ("none", "with")
    raise DistillensError(
        f"{run.folder}: was interrupted {had} a teacher cache, and has {has} now, so it cannot "
        "resume; change teacher_cache back, or start such runs over with --overwrite"
    )


def start(run: Run) -> None:
    """Empties the run's folder and notes there what is about to be trained.

    An interrupted run under this very recipe is kept, so that it resumes; one with another teacher
    cache is not (`check_resumes` has refused it unless it is to start over).
    """
    if _is_interrupted(run) and not _has_other_cache(run):
        return
    try:
        if run.folder.exists():
            shutil.rmtree(run.folder)
        run.folder.mkdir(parents=True)
    except OSError as error:
        raise RunFailure(f"{run.folder}: cannot be emptied or made: {error.strerror}") from error
    note = {"fingerprint": run.fingerprint, "command": run.command(), "resolved": run.resolved}
    write_json(run.folder / RUN, note)


def _is_interrupted(run: Run) -> bool:
    """Of a run that is not trained: whether it was started under this very recipe."""
    return bool(read_json(run.folder / RUN).get("fingerprint") == run.fingerprint)


def _has_other_cache(run: Run) -> bool:
    """Whether one of the run in the folder and this one has a teacher cache, and one has none."""
    path = str(run.train_folder / run_folder.RECIPE)
    try:
        saved, _ = read_mapping(path, what="run's recipe", keys="models", loader=SavedRecipeLoader)
    except DistillensError:  # it did not come that far, or --resume will say what is wrong
        return False
    return (saved.get("teacher_cache") is None) != (run.recipe.teacher_cache is None)


def summary(run: Run) -> dict[str, Any]:
    """The summary of a trained run.

    Raises:
        DistillensError: it is damaged; names file and key.
    """
    path = run.train_folder / run_folder.SUMMARY
    content = read_json(path)
    check(SummaryFile, content, str(path), expected=EXPECTED)
    return content


def metrics(run: Run) -> list[dict[str, Any]]:
    """The records of a trained run's metrics.jsonl.

    Raises:
        DistillensError: it is missing or damaged; names file and line.
    """
    path = run.train_folder / run_folder.METRICS
    found = []
    for line, record in read_jsonl(path):
        check(MetricsRecord, record, f"{path}:{line}", expected=EXPECTED)
        found.append(record)
    return found


def validation_nll(run: Run, checkpoint: str = "best") -> float | None:
    """Validation loss of a trained run's `best` or `last` model, in nats per response token."""
    found = summary(run)
    if checkpoint == "last":
        return found["validation_loss_after"]
    steps = {entry["step"]: entry["validation_loss"] for entry in found["validation"]}
    return steps.get(found["best_step"])
