"""What a judgement is asked with, by the command or from Python; all of it is checked first."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from eval_harness.comparison.systems import load_systems
from eval_harness.errors import DistillensError
from eval_harness.judging.judge import Judge, request_settings
from eval_harness.judging.judgement import Judgement
from eval_harness.judging.pairs import chosen_tasks, make_pairs
from eval_harness.judging.prompt import read_prompt
from eval_harness.judging.run import judge_pairs
from eval_harness.shared.argument_types import (
    check_mappings,
    check_names,
    check_switches,
    check_texts,
    folder_of,
    path_of,
    tasks_of,
)
from eval_harness.shared.endpoint.openai_compatible import checked_base_url, key_headers

PathLike = str | os.PathLike[str]
_LONGEST_S = 86_400


def judge(
    a: PathLike,
    b: PathLike,
    *,
    base_url: str,
    judge_model: str,
    output_path: PathLike,
    api_key_env: str | None = None,
    prompt: PathLike = "pair",
    gen_kwargs: Mapping[str, Any] | None = None,
    tasks: str | Sequence[str] | None = None,
    limit: float | None = None,
    all_seeds: bool = False,
    max_concurrent: int = 16,
    timeout_s: float = 300.0,
    allow_missing: bool = False,
) -> Judgement:
    """Lets a model behind an endpoint prefer one of two systems: `eval-harness judge`.

        print(judge("out/student", "out/teacher", base_url="http://localhost:8000/v1",
                    judge_model="Qwen/Qwen2.5-7B-Instruct", output_path="out/judged"))

    Args:
        a, b: results folders or files with samples, of the same rows.
        base_url: of an OpenAI-compatible endpoint;  judge_model: the judge's name there.
        output_path: folder for the verdicts, which are kept as they come, and the result.
        api_key_env: environment variable with the key; None: OPENAI_API_KEY if it is set.
        prompt: "pair", "reference" (shows the judge the first reference), or a text file.
        gen_kwargs: sent with each request, beside temperature 0 and max_tokens 1024; None takes
            one of these away.
        tasks: of those that both systems have; None: all.
        limit: first rows of each task (an integer), or their share (below 1); None: all.
        all_seeds: judge every answer, not only the first of a row.
        max_concurrent: requests at once.
        timeout_s: longest wait for one verdict, all tries together.
        allow_missing: leave out pairs whose requests fail, instead of ending without a result.
    Returns:
        Wins, losses and ties of each task with what may have swayed the judge; `path` is its file.
    Raises:
        DistillensError: bad input, before anything is asked.
        RunFailure: verdicts are missing after all; the same call goes on from those that came.
    """
    check_names(base_url=base_url, judge_model=judge_model)
    check_texts(api_key_env=api_key_env)
    check_mappings(gen_kwargs=gen_kwargs)
    check_switches(all_seeds=all_seeds, allow_missing=allow_missing)
    _check_numbers(limit=limit, max_concurrent=max_concurrent, timeout_s=timeout_s)
    address = checked_base_url(base_url, flag="--base_url")
    asked = Judge(
        judge_model,
        address,
        timeout_s,
        key_headers(address, variable=api_key_env, flag="--api_key_env"),
        request_settings(gen_kwargs or {}),
    )
    text = read_prompt(path_of(prompt, "prompt"))
    folder = folder_of(output_path, "output_path")
    names = None if tasks is None else tasks_of(tasks)
    systems = load_systems([path_of(a, "a"), path_of(b, "b")], metrics=None)
    pairs = {
        task: make_pairs(*systems, task=task, prompt=text, limit=limit, all_seeds=all_seeds)
        for task in chosen_tasks(systems[0], names.split(",") if isinstance(names, str) else names)
    }
    return judge_pairs(
        (systems[0], systems[1]),
        pairs,
        judge=asked,
        prompt=text,
        output_path=folder,
        max_concurrent=max_concurrent,
        allow_missing=allow_missing,
        config={
            "tasks": list(pairs),
            "limit": limit,
            "all_seeds": all_seeds,
            "prompt": str(prompt),
            "allow_missing": allow_missing,
        },
    )


def _check_numbers(*, limit: object, max_concurrent: object, timeout_s: object) -> None:
    if limit is not None and not (
        _is_number(limit) and (0 < limit < 1 or (limit >= 1 and limit == int(limit)))
    ):
        raise DistillensError(
            f"limit = {limit!r}, expected a number of rows of at least 1, or a share below 1"
        )
    if not (isinstance(max_concurrent, int) and _is_number(max_concurrent) and max_concurrent > 0):
        raise DistillensError(f"max_concurrent = {max_concurrent!r}, expected an integer above 0")
    if not (_is_number(timeout_s) and 0 < timeout_s <= _LONGEST_S):
        raise DistillensError(
            f"timeout_s = {timeout_s!r}, expected seconds, above 0 and at most {_LONGEST_S}"
        )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
