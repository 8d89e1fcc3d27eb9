"""A run's settings, from the command line or from Python, checked before anything is read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval_harness.benchmarks import find_benchmarks, select_benchmarks
from eval_harness.errors import DistillensError
from eval_harness.generation.request_checks import (
    check_context,
    check_samples,
    check_server,
)
from eval_harness.generation.scorable import check_references
from eval_harness.generation.task import Settings
from eval_harness.protocols.protocol import make_protocol
from eval_harness.scoring.metrics import metrics_with
from eval_harness.shared.program.key_values import check_names_are_texts
from eval_harness.shared.text.template_table import check_template


def make_settings(
    *,
    backend: str,
    model_args: Mapping[str, Any],
    tasks: str | Sequence[str],
    output_path: Path,
    data: Sequence[str] = (),
    include_path: str | Path | None = None,
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
    write_out: bool = False,
    log_samples: bool = True,
    predict_only: bool = False,
    rouge_tokenizer: str = "default",
    loglikelihood: bool = False,
    trust_remote_code: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a run.

    Args:
        backend: a name of `BACKENDS`.
        model_args: parsed --model_args; `batch_size` and `device` override those in it.
        tasks: see `select_benchmarks`, as `data`.
        include_path: see `find_benchmarks`.
        protocol: a name of `PROTOCOLS`; `gen_kwargs`, `seeds`, `template`, `truncation` and
            `max_prompt_tokens` change it, None leaves its own.
        system_instruction, num_fewshot: as `Protocol`'s; None: none.
        rouge_tokenizer: "unicode" adds `rougeL_unicode` to the benchmarks' metrics.
        config: goes into the results file, beside protocol and seeds.
        The others: see `Settings`.
    Raises:
        DistillensError: an unknown name, a wrong value, or settings that contradict each other.
    """
    if template is not None:
        check_template(template)
    if predict_only and not log_samples:
        raise DistillensError(
            "--predict_only with --no-log_samples would keep nothing; drop one of them"
        )
    check_names_are_texts(model_args, flag="--model_args")
    changed = make_protocol(
        protocol,
        gen_kwargs=dict(gen_kwargs or {}),
        seeds=seeds,
        template=template,
        truncation=truncation,
        max_prompt_tokens=max_prompt_tokens,
        system_instruction=system_instruction,
        num_fewshot=num_fewshot,
    )
    check_server(backend, protocol, changed, model_args)
    benchmarks = select_benchmarks(tasks, find_benchmarks(include_path), data)
    check_references(benchmarks, rouge_tokenizer, predict_only, loglikelihood)
    benchmarks = [
        benchmark
        if benchmark.references == "none"
        else replace(benchmark, metrics=metrics_with(benchmark.metrics, rouge_tokenizer))
        for benchmark in benchmarks
    ]
    check_context(benchmarks, changed, template, fewshot_as_multiturn)
    check_samples(samples, benchmarks, limit)
    given = dict(model_args)
    for key, value in (("batch_size", batch_size), ("device", device)):
        if value is not None:
            given[key] = value
    return Settings(
        model=backend,
        model_args=given,
        benchmarks=benchmarks,
        protocol=changed,
        output_path=output_path,
        template=template,
        limit=limit,
        samples=samples,
        fewshot_as_multiturn=fewshot_as_multiturn,
        write_out=write_out,
        log_samples=log_samples,
        predict_only=predict_only,
        loglikelihood=loglikelihood,
        trust_remote_code=trust_remote_code,
        config={
            "model": backend,
            **(config or {}),
            "model_args": dict(model_args),
            "limit": limit,
            "device": device,
            "protocol": protocol,
            "gen_kwargs": dict(gen_kwargs or {}),
            "seeds": list(changed.seeds),
        },
    )
