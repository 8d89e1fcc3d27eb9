"""Several systems in one process: each gets the results that a call of its own would give it."""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval_harness.backends.base import Backend
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.evaluate import (
    Evaluation,
    finish_evaluation,
    open_evaluation,
    prepare_evaluation,
    read_rows,
)
from eval_harness.generation.shared_backends import SharedBackends
from eval_harness.generation.task import Settings, say
from eval_harness.generation.work import longest
from eval_harness.results.schema import Results


@dataclass(frozen=True)
class Outcome:
    """How one system's evaluation ended.

    Attributes:
        place: of its settings in the list that was given.
        name: of the model.
        results, path: of the results and their file; None if it failed.
        failure: one line; empty if it did not.
    """

    place: int
    name: str
    results: Results | None = None
    path: Path | None = None
    failure: str = ""


def run_systems(systems: Sequence[Settings]) -> Iterator[Outcome]:
    """Evaluates systems one after the other, and yields each as soon as it has its results.

    Systems that fit together share a loaded backend, and follow each other. One that fails while
    running does not keep the others from theirs. Stored answers are not generated again.

    Raises:
        DistillensError: bad input of any of them, refused before any weights are loaded.
    """
    evaluations = _prepared(systems)
    systems[0].processes.together(lambda: _check_folders(evaluations))
    with contextlib.ExitStack() as stack:
        for evaluation in evaluations:
            stack.enter_context(open_evaluation(evaluation))
        backends = SharedBackends(
            [evaluation.engine for evaluation in evaluations],
            [longest(evaluation.tasks) for evaluation in evaluations],
        )
        stack.callback(backends.close)
        for number, place in enumerate(backends.order(), start=1):
            name = evaluations[place].engine.facts.name
            say(f"system {number} of {len(evaluations)}: {name}")
            yield _outcome(place, evaluations[place], backends)


def _prepared(systems: Sequence[Settings]) -> list[Evaluation]:
    first, evaluations = systems[0], list[Evaluation]()
    # All systems are asked the same rows, which are in memory once.
    read = first.processes.together(lambda: read_rows(first))
    for settings in systems:
        same = _rows(settings) == _rows(first)
        try:
            evaluations.append(prepare_evaluation(settings, read if same else None))
        except DistillensError as error:
            name = settings.model_args.get("peft") or settings.model_args.get("pretrained")
            named = type(error)(f"--systems {name}: {error}")
            named.said_elsewhere = error.said_elsewhere
            raise named from error
    return evaluations


def _rows(settings: Settings) -> tuple[object, ...]:
    return settings.benchmarks, settings.protocol, settings.limit, settings.samples


def _outcome(place: int, evaluation: Evaluation, backends: SharedBackends) -> Outcome:
    engine = evaluation.engine
    name = engine.facts.name
    borrowed = dataclasses.replace(
        engine, load=partial(backends.borrow, place, engine), release=_keep
    )
    try:
        results, path = finish_evaluation(
            dataclasses.replace(evaluation, engine=borrowed, started=time.time())
        )
    except DistillensError as error:
        failure = str(error)
    except Exception as error:
        # Unexpected, so that somebody will want to see where; the other systems still go on.
        traceback.print_exc()
        failure = " ".join(f"{type(error).__name__}: {error}".split())
    else:
        return Outcome(place, name, results, path)
    # What has failed may not be in a state to serve another system.
    with contextlib.suppress(Exception):
        backends.close()
    say(f"{name}: failed: {failure}")
    return Outcome(place, name, failure=failure)


def _keep(backend: Backend) -> None:
    """Leaves it loaded, for the next system."""


def _check_folders(evaluations: Sequence[Evaluation]) -> None:
    known: dict[Path, str] = {}
    for evaluation in evaluations:
        folder, name = evaluation.folder.resolve(), evaluation.engine.facts.name
        if folder in known:
            raise DistillensError(
                f"--systems: {known[folder]} and {name} would both write {evaluation.folder}; name "
                "each system once, or give one of them an output_path of its own"
            )
        known[folder] = name


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Ends with 1 if some of the systems failed.

    Raises:
        RunFailure: names them.
    """
    failed = [f"{outcome.name}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    if failed:
        raise RunFailure(
            f"{len(failed)} of {len(outcomes)} systems failed; the others have their results: "
            + "; ".join(failed)
        )
