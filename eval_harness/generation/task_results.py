"""From stored answers to scored samples and the results of a run."""

import time
from collections.abc import Sequence
from typing import Any

from eval_harness.generation.engine import Engine
from eval_harness.generation.loglikelihood import likelihood_metrics
from eval_harness.generation.progress import said_to_last
from eval_harness.generation.task import Settings, Task
from eval_harness.generation.task_config import task_config
from eval_harness.protocols.generation_kwargs import generation_kwargs
from eval_harness.results.environment import describe_run
from eval_harness.results.folder import model_folder_name
from eval_harness.results.schema import Fingerprint, Results, Sample, TaskResult
from eval_harness.shared.text.answers import cut_at_stop
from eval_harness.shared.text.chat_templates import chat_template_of
from eval_harness.shared.text.prompt_starts import prompt_starts


def results_of(
    tasks: Sequence[Task], settings: Settings, engine: Engine, *, started: float
) -> Results:
    """The results of tasks whose stores are filled.

    Args:
        started: in seconds since the epoch.
    """
    from eval_harness.scoring.rouge import tokenizer_version
    from eval_harness.scoring.score import score_samples
    from eval_harness.scoring.task_metrics import task_metrics

    results: dict[str, TaskResult] = {}
    for task in tasks:
        samples = [_sample(task, row) for row in range(len(task.rows))]
        versions = dict(engine.versions)
        if not settings.predict_only:
            with said_to_last(f"scoring {task.benchmark.task}"):
                versions["scorer"] = score_samples(samples, metrics=task.benchmark.metrics)
            versions |= tokenizer_version(task.benchmark.metrics)
        metrics: dict[str, Any] = dict(task_metrics(samples))
        if task.likelihood is not None:
            metrics |= likelihood_metrics(task.likelihood, samples)
        name = task.benchmark.task
        results[name] = TaskResult(
            task=name,
            metrics=metrics,
            config=task_config(task),
            version=task.benchmark.version,
            num_original=task.num_original,
            num_effective=len(task.rows),
            fingerprint=Fingerprint(
                protocol=task.protocol.settings(),
                data=task.data,
                model=engine.identity,
                versions=versions,
            ),
            samples=samples if settings.log_samples else [],
        )
    facts = engine.facts
    uses_chat = any(task.protocol.template == "chat" for task in tasks)
    environment = describe_run(
        model_source=settings.model,
        model_name_sanitized=model_folder_name(facts.name),
        tokenizer=facts.tokenizer,
        max_length=facts.max_length,
        chat_template=chat_template_of(facts.tokenizer) if uses_chat else None,
        seconds=time.time() - started,
        system_instruction=tasks[0].protocol.system_instruction,
        fewshot_as_multiturn=any(task.protocol.fewshot_as_multiturn for task in tasks),
    )
    dtype = engine.identity["dtype"]
    config = {
        **settings.config,
        # "auto": a server's own, which it does not tell.
        "model_dtype": dtype if dtype == "auto" else f"torch.{dtype}",
        "model_revision": settings.model_args.get("revision", "main"),
    }
    return Results(facts.name, config, results, started, environment)


def _sample(task: Task, row: int) -> Sample:
    assert task.store is not None
    answers = [task.store.rows[task.key(row, seed)] for seed in task.protocol.seeds]
    doc, row_id = task.rows[row].doc, task.rows[row].row_id
    cut = [
        cut_at_stop(
            answer["text"],
            until=task.protocol.until,
            starts=prompt_starts(task.protocol.template),
            newline=task.protocol.newline,
            references=task.rows[row].references,
        )
        for answer in answers
    ]
    return Sample(
        doc_id=task.rows[row].doc_id,
        # Rows are paired by `id`, so a row without one gets its index as `id`.
        doc=doc if "id" in doc and str(doc["id"]) == row_id else {**doc, "id": row_id},
        target=list(task.rows[row].references),
        arguments={
            "gen_args_0": {
                "arg_0": task.prompts.texts[row],
                "arg_1": {
                    **generation_kwargs(task.protocol),
                    "stop_token_ids": task.stop_token_ids,
                },
            },
            "prompt_tokens": len(task.prompts.token_ids[row]),
        },
        resps=[answer["text"] for answer in answers],
        filtered_resps=[text for text, _ in cut],
        seeds=list(task.protocol.seeds),
        num_tokens=[answer["num_tokens"] for answer in answers],
        # What a stop ended was complete before the token limit.
        finish_reason=[
            "stop" if is_stopped else answer["finish_reason"]
            for answer, (_, is_stopped) in zip(answers, cut, strict=True)
        ],
    )
