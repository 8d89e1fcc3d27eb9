"""One evaluation: first everything that can be refused, then weights, answers, scores, files."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.backends.base import Backend, Request, Sampling
from eval_harness.backends.ngrams import first_repeat
from eval_harness.errors import RunFailure
from eval_harness.generation.checked_answers import checked_answers
from eval_harness.generation.engine import Engine, choose_engine
from eval_harness.generation.loglikelihood import likelihood_metrics
from eval_harness.generation.task import (
    Settings,
    Task,
    close_stores,
    limited_rows,
    newlines_read,
    open_stores,
    prepare_task,
    say,
    write_out,
)
from eval_harness.generation.task_config import task_config
from eval_harness.protocols.generation_kwargs import generation_kwargs
from eval_harness.protocols.protocol import request_seed
from eval_harness.results.environment import describe_run
from eval_harness.results.folder import model_folder_name, write_results
from eval_harness.results.schema import Fingerprint, Results, Sample, TaskResult
from eval_harness.shared.files.atomic import check_can_be_made, check_writable
from eval_harness.shared.files.lock import FolderLock
from eval_harness.shared.text.answers import cut_answer
from eval_harness.shared.text.chat_templates import chat_template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run_evaluation(settings: Settings) -> tuple[Results, Path]:
    """Runs an evaluation, resuming from what an interrupted one has left.

    Returns:
        The results, and the path of the results file.
    Raises:
        DistillensError: bad input, refused before any weights are loaded.
        RunFailure: the backend failed, or a file cannot be written.
    """
    started = time.time()
    loaded = [
        (
            benchmark,
            *limited_rows(benchmark, settings.limit, (settings.samples or {}).get(benchmark.task)),
        )
        for benchmark in newlines_read(settings)
    ]
    check_can_be_made(settings.output_path)
    engine = choose_engine(
        settings.model,
        settings.model_args,
        default_dtype=settings.protocol.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    tasks = [prepare_task(*item, settings=settings, facts=engine.facts) for item in loaded]
    if settings.write_out:
        for task in tasks:
            write_out(task)
    folder = settings.output_path / model_folder_name(engine.facts.name)
    check_writable(folder)
    with FolderLock(folder):
        try:
            for task in tasks:
                open_stores(task, folder, settings, engine)
            _fill(tasks, settings, engine)
            results = _results(tasks, settings, engine, started=started)
            path = write_results(results, settings.output_path)
            for result in results.tasks.values():
                result.source = str(path)
            return results, path
        finally:
            for task in tasks:
                close_stores(task)


@dataclass(frozen=True)
class _Work:
    """Answers that are generated together: those of tasks with the same end tokens."""

    asked: list[tuple[Task, int, int]]
    requests: list[Request]
    done: frozenset[int]
    sampling: Sampling

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "_Work":
        asked = [
            (task, row, seed)
            for task in tasks
            for row in range(len(task.rows))
            for seed in task.protocol.seeds
        ]
        requests = [
            Request(
                task.prompts.token_ids[row],
                request_seed(seed, task.benchmark.task, task.rows[row].row_id),
            )
            for task, row, seed in asked
        ]
        done = frozenset(
            index
            for index, (task, row, seed) in enumerate(asked)
            if task.store is not None and task.key(row, seed) in task.store.rows
        )
        return cls(asked, requests, done, Sampling.of(tasks[0].protocol, tasks[0].stop_token_ids))

    @property
    def is_done(self) -> bool:
        return len(self.done) == len(self.asked)

    def longest(self) -> int:
        """Positions that the longest prompt and its answer need."""
        prompt = max((len(request.prompt_ids) for request in self.requests), default=0)
        return prompt + self.sampling.max_new_tokens


def _fill(tasks: Sequence[Task], settings: Settings, engine: Engine) -> None:
    """Generates the answers that the stores lack; loads no weights if they lack none."""
    groups: dict[tuple[int, ...], list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.stop_token_ids, []).append(task)
    works = [_Work.of(group) for group in groups.values()]
    likelihoods = [task.likelihood for task in tasks if task.likelihood is not None]
    if all(work.is_done for work in works) and not any(item.missing() for item in likelihoods):
        return
    longest = max([*(item.longest() for item in works), *(item.longest() for item in likelihoods)])
    size = tasks[0].protocol.no_repeat_ngram_size
    backend = engine.load(max_length=longest, no_repeat_ngrams=size > 0)
    try:
        for work in works:
            if not work.is_done:
                _generate(backend, work, engine.facts.tokenizer)
        for likelihood in likelihoods:
            likelihood.fill(backend)
    finally:
        backend.close()


def _generate(backend: Backend, work: _Work, tokenizer: "PreTrainedTokenizerBase") -> None:
    from tqdm import tqdm

    started, num_tokens = time.perf_counter(), 0
    asked, done = work.asked, work.done
    progress = tqdm(
        total=len(asked), initial=len(done), unit="answer", disable=not sys.stderr.isatty()
    )
    with progress:
        answers = checked_answers(
            backend.generate(work.requests, work.sampling, done=done),
            backend=backend.name,
            num_requests=len(work.requests),
            done=done,
        )
        for answer in answers:
            task, row, seed = asked[answer.index]
            _check_ngrams(task, row, answer.token_ids, work.sampling.no_repeat_ngram_size)
            text = tokenizer.decode(
                answer.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            assert task.store is not None
            task.store.add(
                task.key(row, seed),
                {
                    "text": text,
                    "num_tokens": len(answer.token_ids),
                    "finish_reason": answer.finish_reason,
                },
            )
            num_tokens += len(answer.token_ids)
            progress.update()
    seconds = time.perf_counter() - started
    say(
        f"{len(asked) - len(done)} answers, {num_tokens} tokens in {seconds:.1f} s "
        f"({num_tokens / seconds:.0f} tokens/s, {backend.name})"
    )


def _check_ngrams(task: Task, row: int, token_ids: Sequence[int], size: int) -> None:
    """The backend applies the rule out of sight; an answer that breaks it shows that it is off."""
    if size and first_repeat(task.prompts.token_ids[row], token_ids, size) is not None:
        raise RunFailure(
            f"{task.benchmark.task}: the answer to row {task.rows[row].row_id!r} repeats {size} "
            "tokens although no_repeat_ngram_size forbids it: the backend does not apply the rule"
        )


def _results(
    tasks: Sequence[Task], settings: Settings, engine: Engine, *, started: float
) -> Results:
    from eval_harness.scoring.score import score_samples
    from eval_harness.scoring.task_metrics import task_metrics

    results: dict[str, TaskResult] = {}
    for task in tasks:
        samples = [_sample(task, row) for row in range(len(task.rows))]
        versions = dict(engine.versions)
        if not settings.predict_only:
            versions["scorer"] = score_samples(samples, metrics=task.benchmark.metrics)
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
    config = {
        **settings.config,
        "model_dtype": f"torch.{engine.identity['dtype']}",
        "model_revision": settings.model_args.get("revision", "main"),
    }
    return Results(facts.name, config, results, started, environment)


def _sample(task: Task, row: int) -> Sample:
    assert task.store is not None
    answers = [task.store.rows[task.key(row, seed)] for seed in task.protocol.seeds]
    doc, row_id = task.rows[row].doc, task.rows[row].row_id
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
        filtered_resps=[
            cut_answer(
                answer["text"],
                until=task.protocol.stops,
                newline=task.protocol.newline,
                references=task.rows[row].references,
            )
            for answer in answers
        ],
        seeds=list(task.protocol.seeds),
        num_tokens=[answer["num_tokens"] for answer in answers],
        finish_reason=[answer["finish_reason"] for answer in answers],
    )
