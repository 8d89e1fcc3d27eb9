"""From pairs to a judgement: first what can be refused, then verdicts, sums and files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval_harness.comparison.systems import System
from eval_harness.errors import RunFailure
from eval_harness.generation.store import AnswerStore
from eval_harness.generation.task import say
from eval_harness.judging.files import verdicts_file, write_judgement
from eval_harness.judging.judge import Judge, JudgedRow
from eval_harness.judging.judgement import Judgement
from eval_harness.judging.pairs import Key, Pair
from eval_harness.judging.prompt import PairPrompt
from eval_harness.judging.tally import Judged, Tally, judged_pairs, tally
from eval_harness.judging.verdict import read_verdict
from eval_harness.judging.work import ask_missing
from eval_harness.shared.digest import digest
from eval_harness.shared.endpoint.http_json import EndpointFailure
from eval_harness.shared.files.atomic import check_can_be_made, check_writable
from eval_harness.shared.files.lock import FolderLock
from eval_harness.shared.statistics import holm


def judge_pairs(
    systems: tuple[System, System],
    pairs: Mapping[str, Sequence[Pair]],
    *,
    judge: Judge,
    prompt: PairPrompt,
    output_path: Path,
    max_concurrent: int,
    allow_missing: bool = False,
    config: dict[str, Any] | None = None,
) -> Judgement:
    """Judges all pairs, resuming from the verdicts that earlier calls have left.

    Args:
        pairs: by task.
        max_concurrent: requests in flight at once.
        allow_missing: leave out pairs whose requests fail, instead of ending without a result.
        config: goes into the file as it is.
    Returns:
        The judgement, which has been written to its `path`.
    Raises:
        DistillensError: the folder is in use, or the endpoint does not have the judge.
        RunFailure: a verdict is missing after all; those that came are kept.
    """
    started = time.time()
    depends_on = {"judge_model": judge.model, "request": judge.request, "prompt": prompt.text}
    path = verdicts_file(output_path, depends_on)
    messages = {
        pair.key(order): pair.messages[order]
        for found in pairs.values()
        for pair in found
        if not pair.is_same
        for order in (0, 1)
    }
    check_can_be_made(output_path)
    is_new = not path.exists()
    if is_new and messages:
        judge.check()  # before anything is written
    check_writable(output_path)
    with FolderLock(output_path, where="--output_path"):
        store = AnswerStore(path, depends_on, JudgedRow)
        try:
            num_missing = sum(key not in store.rows for key in messages)
            say(f"{num_missing} of {len(messages)} verdicts to be asked of {judge.model}")
            if num_missing and not is_new:
                judge.check()
            failures = ask_missing(messages, store, judge, max_concurrent=max_concurrent)
            if judge.num_retries:
                say(f"{judge.num_retries} requests were repeated")
            if failures and not allow_missing:
                raise RunFailure(_missing(failures, len(messages), path))
            for key, failure in failures.items():
                say(f"{key[0]}: no verdict on row {key[1]!r}: {failure}")
            rows = {key: store.rows[key] for key in messages if key in store.rows}
            _tell_of_others(rows, judge)
            judged = _judged(pairs, rows)
            tallies = _tallied(judged, path)
            adjusted = holm([found.paired.p_value for found in tallies.values()])
            judgement = Judgement(
                systems=systems,
                judge=depends_on,
                base_url=judge.base_url,
                answered_by=sorted({row["model"] for row in rows.values() if row["model"]}),
                tallies=tallies,
                adjusted_p=dict(zip(tallies, adjusted, strict=True)),
                data={task: _data(found) for task, found in pairs.items()},
                config=config or {},
                date=started,
            )
            return replace(judgement, path=write_judgement(judgement, judged, rows, output_path))
        finally:
            store.close()


def _tell_of_others(rows: Mapping[Key, Mapping[str, Any]], judge: Judge) -> None:
    """A judge may move, so its address is not in the fingerprint; another may have its name."""
    found = {row.get("base_url") or judge.base_url for row in rows.values()}
    others = ", ".join(sorted(found - {judge.base_url}))
    if others:
        say(
            f"WARNING: some verdicts here are of {judge.model} at {others}, not at "
            f"{judge.base_url}; if that was another model, give another output path"
        )


def _judged(
    pairs: Mapping[str, Sequence[Pair]], rows: Mapping[Key, Mapping[str, Any]]
) -> dict[str, list[Judged]]:
    verdicts = {
        key: read_verdict(
            row["text"], refused=row["refused"], is_cut=row["finish_reason"] == "length"
        )
        for key, row in rows.items()
    }
    return {task: judged_pairs(found, verdicts) for task, found in pairs.items()}


def _tallied(judged: Mapping[str, Sequence[Judged]], path: Path) -> dict[str, Tally]:
    tallies = {}
    for task, items in judged.items():
        found = tally(items, num_tasks=len(judged))
        if found is None:
            raise RunFailure(
                f"{task}: none of its {len(items)} pairs has two readable verdicts, so there is "
                f"nothing to add up; {path} has what the judge said"
            )
        tallies[task] = found
    return tallies


def _data(pairs: Sequence[Pair]) -> str:
    return digest([[pair.row_id, pair.seed, *pair.messages] for pair in pairs])


def _missing(failures: Mapping[Key, EndpointFailure], num_messages: int, path: Path) -> str:
    failure = next(iter(failures.values()))
    rows = list(dict.fromkeys(f"{key[0]} row {key[1]!r}" for key in failures))
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return (
        f"{len(failures)} of {num_messages} verdicts are missing ({', '.join(rows[:4])}{more}; "
        f"{failure}); the others are kept in {path}: the same command asks for these again, "
        "--allow_missing leaves their pairs out"
    )
