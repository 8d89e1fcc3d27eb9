"""The answers and likelihoods that a run lacks: asked of the backend, stored as they come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval_harness.backends.base import Backend, Request, Sampling
from eval_harness.backends.ngrams import first_repeat
from eval_harness.errors import RunFailure
from eval_harness.generation.checked_answers import checked_answers
from eval_harness.generation.dealing import dealt
from eval_harness.generation.engine import Engine
from eval_harness.generation.known_model import check_known
from eval_harness.generation.loglikelihood import LikelihoodTask
from eval_harness.generation.processes import ALONE, Processes
from eval_harness.generation.progress import Progress
from eval_harness.generation.task import Task, say
from eval_harness.protocols.protocol import request_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Work:
    """Answers that are generated together: those of tasks with the same end tokens."""

    asked: list[tuple[Task, int, int]]
    requests: list[Request]
    done: frozenset[int]
    sampling: Sampling

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "Work":
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


def longest(tasks: Sequence[Task]) -> int:
    """Positions that the longest prompt needs with its answer or its reference."""
    lengths = [
        max(map(len, task.prompts.token_ids), default=0) + task.protocol.max_new_tokens
        for task in tasks
    ]
    return max(lengths + [task.likelihood.longest() for task in tasks if task.likelihood])


def fill_stores(tasks: Sequence[Task], engine: Engine, processes: Processes = ALONE) -> None:
    """Generates the answers that the stores lack; loads no weights if they lack none.

    Args:
        processes: divide the work. Their stores must have had the same rows so far.
    """
    groups: dict[tuple[int, ...], list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.stop_token_ids, []).append(task)
    works = [Work.of(group) for group in groups.values()]
    likelihoods = [task.likelihood for task in tasks if task.likelihood is not None]
    is_done = all(work.is_done for work in works)
    is_done = is_done and not any(item.missing() for item in likelihoods)
    if is_done and not engine.backend.has_signature:
        return
    size = tasks[0].protocol.no_repeat_ngram_size
    backend = processes.together(
        lambda: engine.load(max_length=longest(tasks), no_repeat_ngrams=size > 0)
    )
    try:
        if (signature := backend.signature()) is not None:
            for task in tasks:
                assert task.store is not None
                check_known(task.store.path, signature)
        if any(item.missing() for item in likelihoods):
            backend.check_log_likelihoods()
        for work in works:
            if not work.is_done:
                _generate_together(backend, work, engine.facts.tokenizer, processes)
        for likelihood in likelihoods:
            _compute_together(backend, likelihood, processes)
    finally:
        engine.release(backend)


def _generate_together(
    backend: Backend, work: Work, tokenizer: "PreTrainedTokenizerBase", processes: Processes
) -> None:
    total, done = len(work.asked), len(work.done)
    with Progress(total, done, unit="answer", processes=processes) as progress:
        processes.together(
            lambda: _generate(backend, work, tokenizer, processes, progress),
            while_waiting=progress.tick,
        )
        num_answers, num_tokens = progress.totals()
        seconds = progress.seconds()
    say(
        f"{num_answers} answers, {num_tokens} tokens in {seconds:.1f} s "
        f"({num_tokens / seconds:.0f} tokens/s, {backend.name})"
    )


def _compute_together(backend: Backend, likelihood: LikelihoodTask, processes: Processes) -> None:
    total, missing = len(likelihood.continuations), len(likelihood.missing())
    if missing == 0:
        return
    with Progress(total, total - missing, unit="reference", processes=processes) as progress:
        processes.together(
            lambda: likelihood.fill(backend, processes, progress), while_waiting=progress.tick
        )


def _generate(
    backend: Backend,
    work: Work,
    tokenizer: "PreTrainedTokenizerBase",
    processes: Processes,
    progress: Progress,
) -> None:
    """This process's share."""
    done = work.done | _of_others(backend, work, processes)
    answers = checked_answers(
        backend.generate(work.requests, work.sampling, done=done),
        backend=backend.name,
        num_requests=len(work.requests),
        done=done,
    )
    for answer in answers:
        task, row, seed = work.asked[answer.index]
        _check_ngrams(task, row, answer.token_ids, work.sampling.no_repeat_ngram_size)
        text = answer.text
        if text is None:
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
        progress.add(len(answer.token_ids))
    progress.flush()


def _of_others(backend: Backend, work: Work, processes: Processes) -> frozenset[int]:
    """The requests that other processes answer.

    Batches are planned over the whole run and dealt whole, so that an answer does not depend on how
    many processes there are.
    """
    if processes.size == 1:
        return frozenset()
    batches = [batch for batch in backend.plan(work.requests) if not work.done.issuperset(batch)]
    new_tokens = work.sampling.max_new_tokens
    costs = [
        len(batch) * (max(len(work.requests[index].prompt_ids) for index in batch) + new_tokens)
        for batch in batches
    ]
    shares = dealt(costs, processes.size)
    return frozenset(
        index
        for rank, share in enumerate(shares)
        if rank != processes.rank
        for batch in share
        for index in batches[batch]
    )


def _check_ngrams(task: Task, row: int, token_ids: Sequence[int], size: int) -> None:
    """The backend applies the rule out of sight; an answer that breaks it shows that it is off."""
    if size and first_repeat(task.prompts.token_ids[row], token_ids, size) is not None:
        raise RunFailure(
            f"{task.benchmark.task}: the answer to row {task.rows[row].row_id!r} repeats {size} "
            "tokens although no_repeat_ngram_size forbids it: the backend does not apply the rule"
        )
