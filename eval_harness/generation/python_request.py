"""An evaluation that is asked for from Python: types checked, then settings."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from eval_harness.errors import DistillensError
from eval_harness.generation.request import make_settings
from eval_harness.generation.task import Settings
from eval_harness.shared.argument_types import (
    check_mappings,
    check_names,
    check_seeds,
    check_switches,
    check_texts,
    path_of,
    tasks_of,
)

PathLike = str | os.PathLike[str]


class EvaluationArguments(TypedDict, total=False):
    """The arguments of `eval_harness.evaluate` that several systems have in common."""

    backend: str
    data: Mapping[str, PathLike] | None
    include_path: PathLike | None
    protocol: str
    gen_kwargs: Mapping[str, Any] | None
    seeds: Sequence[int] | None
    template: str | None
    truncation: str | None
    max_prompt_tokens: int | None
    batch_size: int | None
    device: str | None
    limit: float | None
    samples: Mapping[str, Sequence[int]] | None
    system_instruction: str | None
    num_fewshot: int | None
    fewshot_as_multiturn: bool | None
    log_samples: bool
    predict_only: bool
    rouge_tokenizer: str
    loglikelihood: bool
    trust_remote_code: bool


def evaluation_settings(
    model_args: Mapping[str, Any],
    tasks: PathLike | Sequence[PathLike],
    output_path: Path,
    *,
    backend: str = "hf",
    data: Mapping[str, PathLike] | None = None,
    include_path: PathLike | None = None,
    protocol: str = "default",
    gen_kwargs: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    template: str | None = None,
    truncation: str | None = None,
    max_prompt_tokens: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    limit: float | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    system_instruction: str | None = None,
    num_fewshot: int | None = None,
    fewshot_as_multiturn: bool | None = None,
    log_samples: bool = True,
    predict_only: bool = False,
    rouge_tokenizer: str = "default",
    loglikelihood: bool = False,
    trust_remote_code: bool = False,
) -> Settings:
    """The settings of `eval_harness.evaluate`, which explains them.

    Args:
        model_args: with "pretrained".
    Raises:
        DistillensError: a value of another type, or settings that contradict each other.
    """
    if limit is not None and not _is_limit(limit):
        raise DistillensError(
            f"limit = {limit!r}, expected a number of rows of at least 1, or a share between 0 "
            "and 1"
        )
    check_names(backend=backend, protocol=protocol, rouge_tokenizer=rouge_tokenizer)
    check_texts(
        template=template,
        truncation=truncation,
        device=device,
        system_instruction=system_instruction,
    )
    check_switches(
        log_samples=log_samples,
        predict_only=predict_only,
        loglikelihood=loglikelihood,
        trust_remote_code=trust_remote_code,
    )
    check_mappings(data=data, gen_kwargs=gen_kwargs)
    check_seeds(seeds)
    return make_settings(
        backend=backend,
        model_args=model_args,
        tasks=tasks_of(tasks),
        output_path=output_path,
        data=[f"{task}={path_of(path, f'data[{task!r}]')}" for task, path in (data or {}).items()],
        include_path=(
            None if include_path is None else Path(path_of(include_path, "include_path"))
        ),
        protocol=protocol,
        gen_kwargs=gen_kwargs,
        seeds=seeds,
        template=template,
        truncation=truncation,
        max_prompt_tokens=max_prompt_tokens,
        batch_size=batch_size,
        device=device,
        limit=limit,
        samples=samples,
        system_instruction=system_instruction,
        num_fewshot=num_fewshot,
        fewshot_as_multiturn=fewshot_as_multiturn,
        log_samples=log_samples,
        predict_only=predict_only,
        rouge_tokenizer=rouge_tokenizer,
        loglikelihood=loglikelihood,
        trust_remote_code=trust_remote_code,
        config={"batch_size": batch_size, "limit": limit},
    )


def _is_limit(limit: float) -> bool:
    whole = isinstance(limit, int | float) and not isinstance(limit, bool)
    return whole and (0 < limit < 1 or (1 <= limit < math.inf and limit == int(limit)))
