"""How likely a model finds the reference answers: negative log-likelihood and perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eval_harness.backends.base import Backend, Continuation
from eval_harness.benchmarks import Row
from eval_harness.errors import RunFailure
from eval_harness.generation.dealing import dealt
from eval_harness.generation.processes import ALONE, Processes
from eval_harness.generation.progress import Progress
from eval_harness.generation.store import AnswerStore
from eval_harness.results.schema import NOT_AVAILABLE, Sample
from eval_harness.shared.digest import digest
from eval_harness.shared.model_folder.identity import ModelFiles
from eval_harness.shared.text.tokenisation import TextEncoder


@dataclass
class LikelihoodTask:
    """All references of one benchmark after their prompts.

    A reference is its tokens and the end token, tokenised separately from the prompt as in
    training. It is truncated only if the model lacks positions for it, and then has no end token.

    Attributes:
        encoder: the prompts' encoder; by default one that ends references with the end token.
    """

    rows: Sequence[Row]
    prompts: Sequence[tuple[int, ...]]
    facts: ModelFiles
    store: AnswerStore
    encoder: TextEncoder | None = None

    @cached_property
    def continuations(self) -> list[tuple[tuple[str, ...], Continuation]]:
        """(key, prompt and reference) for each row's references with at least one token."""
        encoder = self.encoder or TextEncoder(self.facts.tokenizer)
        found: list[tuple[tuple[str, ...], Continuation]] = []
        for row, prompt in zip(self.rows, self.prompts, strict=True):
            for number, reference in enumerate(row.references):
                token_ids = self._reference_ids(encoder, reference, len(prompt))
                if token_ids:
                    key = (row.row_id, str(number), digest([list(prompt), list(token_ids)]))
                    found.append((key, Continuation(prompt, token_ids)))
        return found

    def _reference_ids(
        self, encoder: TextEncoder, reference: str, prompt_length: int
    ) -> tuple[int, ...]:
        (found,) = encoder.responses([reference])
        ids = [*found.ids, *encoder.end_ids]
        if self.facts.max_length is not None:
            # vLLM wants to generate one token after what it scores.
            ids = ids[: self.facts.max_length - prompt_length - 1]
        return tuple(ids)

    def missing(self) -> list[int]:
        """Indices of `continuations` that the store lacks."""
        return [
            index for index, (key, _) in enumerate(self.continuations) if key not in self.store.rows
        ]

    def longest(self) -> int:
        """Positions that the longest prompt and reference need."""
        lengths = (len(item.prompt_ids) + len(item.token_ids) for _, item in self.continuations)
        return max(lengths, default=0) + 1

    def fill(
        self,
        backend: Backend,
        processes: Processes = ALONE,
        progress: Progress | None = None,
    ) -> None:
        """Computes this process's share of what the store lacks.

        Batches are planned over all references, so that they are the same for any number of
        processes and after an interruption.

        Raises:
            RunFailure: a log-likelihood is not finite.
        """
        items = [item for _, item in self.continuations]
        missing = set(self.missing())
        lengths = [len(item.prompt_ids) + len(item.token_ids) for item in items]
        batches = [
            batch for batch in backend.plan_log_likelihoods(items) if not missing.isdisjoint(batch)
        ]
        costs = [len(batch) * max(lengths[index] for index in batch) for batch in batches]
        mine = sorted(dealt(costs, processes.size)[processes.rank])
        asked = [index for batch in mine for index in batches[batch]]
        for result in backend.log_likelihoods([items[index] for index in asked]):
            index = asked[result.index]
            if index not in missing:
                continue
            key, item = self.continuations[index]
            if not math.isfinite(result.total):
                raise RunFailure(
                    f"row {key[0]!r}: the log-likelihood of its reference is {result.total}; "
                    "try dtype=float32"
                )
            self.store.add(key, {"nll": -result.total, "num_tokens": len(item.token_ids)})
            if progress is not None:
                progress.add(len(item.token_ids))
        if progress is not None:
            progress.flush()


def likelihood_metrics(task: LikelihoodTask, samples: Sequence[Sample]) -> dict[str, Any]:
    """Log-likelihoods per token over the benchmark, and per reference in each sample's `extra`.

    Args:
        task: with all its log-likelihoods.
        samples: of the same rows; their `extra` gets "reference_nll" (nats) and "reference_tokens".
    Returns:
        "nll,none" (nats per token), "nll_stderr,none" (over rows), "perplexity,none" (its exp).
    """
    by_row: dict[str, list[dict[str, Any]]] = {}
    for key, _ in task.continuations:
        by_row.setdefault(key[0], []).append(task.store.rows[key])
    for sample in samples:
        found = by_row.get(sample.row_id, [])
        sample.extra["reference_nll"] = [entry["nll"] for entry in found]
        sample.extra["reference_tokens"] = [entry["num_tokens"] for entry in found]
    rows = [
        (sum(entry["nll"] for entry in found), sum(entry["num_tokens"] for entry in found))
        for found in by_row.values()
    ]
    num_tokens = sum(tokens for _, tokens in rows)
    if num_tokens == 0:
        return {"nll,none": NOT_AVAILABLE, "perplexity,none": NOT_AVAILABLE}
    mean = math.fsum(nll for nll, _ in rows) / num_tokens
    metrics: dict[str, Any] = {"nll,none": mean, "nll_stderr,none": NOT_AVAILABLE}
    if len(rows) > 1:
        # A ratio of sums over rows: the error of the linearised ratio.
        squares = math.fsum((nll - mean * tokens) ** 2 for nll, tokens in rows)
        metrics["nll_stderr,none"] = math.sqrt(squares * len(rows) / (len(rows) - 1)) / num_tokens
    # exp overflows above 709 nats per token, which only a broken model reaches.
    metrics["perplexity,none"] = math.exp(mean) if mean < 700 else NOT_AVAILABLE
    return metrics
