"""A run's settings, and each of its benchmarks with prompts and stored answers."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eval_harness.benchmarks import Benchmark, Row, data_digest, load_fewshot, load_rows
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.context import Context
from eval_harness.generation.engine import Engine
from eval_harness.generation.loglikelihood import LikelihoodTask
from eval_harness.generation.processes import ALONE, Processes
from eval_harness.generation.prompts import Prompts, fit_to_model, prepare_prompts
from eval_harness.generation.store import AnswerStore, open_store
from eval_harness.protocols.protocol import CONTEXT_SETTINGS, Protocol
from eval_harness.results.file_models import AnswerRow, LikelihoodRow
from eval_harness.shared.digest import digest
from eval_harness.shared.model_folder.identity import ModelFiles
from eval_harness.shared.model_folder.trained_with import differences
from eval_harness.shared.program.launcher import is_main_process
from eval_harness.shared.row_limit import num_limited
from eval_harness.shared.text.first_tokens import check_add_bos_token


@dataclass(frozen=True)
class Settings:
    """What the command asks for.

    Attributes:
        model: "vllm" or "hf".
        model_args: parsed; "pretrained" is required.
        benchmarks: at least one.
        protocol: with the user's changes.
        template: the user's choice, which overrides a benchmark's; None: the benchmark's, else the
            protocol's.
        limit: rows of each benchmark (an integer), or the share of them (below 1, rounded up);
            None: all.
        samples: task -> indices of its rows, from 0; tasks that are not in it have all rows.
        fewshot_as_multiturn: None: where the template is `chat`.
        write_out: print the first prompt of each task.
        log_samples: write samples files, which compare and report read.
        predict_only: do not score.
        loglikelihood: add the log-likelihood of the references.
        output_path: folder of the results.
        config: goes into the results file as it is.
        working_folder: where paths in model_args count from; None: this process's own.
        processes: that share the run, each with settings like these.
    """

    model: str
    model_args: dict[str, Any]
    benchmarks: Sequence[Benchmark]
    protocol: Protocol
    output_path: Path
    template: str | None = None
    limit: float | None = None
    samples: Mapping[str, Sequence[int]] | None = None
    fewshot_as_multiturn: bool | None = None
    write_out: bool = False
    log_samples: bool = True
    predict_only: bool = False
    loglikelihood: bool = False
    trust_remote_code: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    working_folder: Path | None = None
    processes: Processes = ALONE


@dataclass
class Task:
    """One benchmark with its prompts and the answers so far.

    Attributes:
        stop_token_ids: what ends an answer beside the model's own end tokens: in `chat`, what ends
            an assistant's turn.
    """

    benchmark: Benchmark
    protocol: Protocol
    num_original: int
    rows: list[Row]
    data: str
    prompts: Prompts
    stop_token_ids: tuple[int, ...] = ()
    store: AnswerStore | None = None
    likelihood: LikelihoodTask | None = None

    def key(self, row: int, seed: int) -> tuple[str, str, str]:
        """Row, seed and prompt of an answer: another prompt needs another answer."""
        return self.rows[row].row_id, str(seed), self._prompt_digests[row]

    @cached_property
    def _prompt_digests(self) -> list[str]:
        return [digest(token_ids) for token_ids in self.prompts.token_ids]


def newlines_read(settings: Settings) -> list[Benchmark]:
    """The benchmarks with their mark for a newline, or else the protocol's."""
    return [
        dataclasses.replace(benchmark, newline=benchmark.newline or settings.protocol.newline)
        for benchmark in settings.benchmarks
    ]


def limited_rows(
    benchmark: Benchmark, limit: float | None, indices: Sequence[int] | None = None
) -> tuple[int, list[Row]]:
    """(number of rows in the benchmark, the rows to run).

    Args:
        limit: see `Settings`.
        indices: of the rows, from 0; None: those of `limit`.
    Raises:
        DistillensError: the rows cannot be read, or there is no row of an index.
    """
    rows = load_rows(benchmark)
    if indices is not None:
        if max(indices) >= len(rows):
            raise DistillensError(
                f"--samples {benchmark.task}: there is no row {max(indices)}, expected 0 to "
                f"{len(rows) - 1}"
            )
        return len(rows), [rows[index] for index in sorted(indices)]
    return len(rows), rows[: num_limited(limit, len(rows))]


def prepare_task(
    benchmark: Benchmark,
    num_original: int,
    rows: list[Row],
    *,
    settings: Settings,
    facts: ModelFiles,
) -> Task:
    """Prompts that fit the protocol and the model; reports on standard error what was cut."""
    protocol = settings.protocol
    template = settings.template or benchmark.template or protocol.template
    add_bos_token = settings.model_args.get("add_bos_token")
    if add_bos_token is None:
        add_bos_token = protocol.add_bos_token
    add_bos_token = check_add_bos_token(add_bos_token, "--model_args add_bos_token")
    protocol = dataclasses.replace(
        protocol,
        template=template,
        newline=benchmark.newline,
        add_bos_token=add_bos_token,
        until=benchmark.until if protocol.until is None else protocol.until,
    )
    examples = load_fewshot(benchmark)[: protocol.num_fewshot]
    as_turns = template == "chat" and settings.fewshot_as_multiturn is not False
    context = Context(protocol.system_instruction, tuple(examples), as_turns)
    protocol = dataclasses.replace(protocol, fewshot_as_multiturn=bool(examples) and as_turns)
    protocol = fit_to_model(protocol, facts.max_length)
    if protocol.max_new_tokens < settings.protocol.max_new_tokens:
        say(
            f"{benchmark.task}: the model has {facts.max_length} positions: prompts of at most "
            f"{protocol.max_prompt_tokens} and answers of at most {protocol.max_new_tokens} tokens"
        )
    try:
        prompts = prepare_prompts(rows, protocol, facts.tokenizer, context)
    except DistillensError as error:
        raise DistillensError(f"{benchmark.task}: {error}") from error
    counts = prompts.counts
    for warning in differences(
        facts.adapter or facts.folder, template, bool(prompts.encoder.prefix_ids)
    ):
        say(f"{benchmark.task}: {warning}")
    say(
        f"{benchmark.task}: {counts.prompts} of {num_original} rows from {benchmark.location()}; "
        f"{counts.cut} prompts cut to {protocol.max_prompt_tokens} tokens ({protocol.truncation})"
        + (f", {counts.empty} empty" if counts.empty else "")
        + (f", {counts.as_text} with special tokens read as text" if counts.as_text else "")
        + "".join(f"; {note}" for note in prompts.encoder.describe())
    )
    if counts.special:
        say(
            f"{benchmark.task}: WARNING: {counts.special} prompts hold special tokens in their "
            "text, which this tokenizer cannot tokenise as text"
        )
    ends = prompts.encoder.end_ids[-1:] if template == "chat" else ()
    return Task(
        benchmark,
        protocol,
        num_original,
        rows,
        data_digest([*rows, *examples]),
        prompts,
        stop_token_ids=tuple(end for end in ends if end not in facts.stop_token_ids),
    )


def open_stores(task: Task, folder: Path, settings: Settings, engine: Engine) -> None:
    """Opens the stores of earlier runs in the locked `folder`, or begins new ones."""
    protocol = task.protocol.settings()
    # Rows are kept by seed and prompt, so a run with more seeds or rows reuses those of a smaller
    # one. Answers are cut only when they are scored.
    depends_on_prompt = ("template", "add_bos_token", "truncation", "max_prompt_tokens")
    for name in ("seeds", *depends_on_prompt, "until", "newline"):
        del protocol[name]
    for name in CONTEXT_SETTINGS:
        protocol.pop(name, None)
    depends_on: dict[str, Any] = {
        "task": task.benchmark.task,
        "sampling": protocol,
        "model": engine.identity,
        "versions": engine.versions,
    }
    if task.stop_token_ids:
        depends_on["stop_token_ids"] = list(task.stop_token_ids)
    name = f"{task.benchmark.task}_{digest(depends_on)}.jsonl"
    rank = settings.processes.rank
    task.store = open_store(folder / f"answers_{name}", depends_on, AnswerRow, rank=rank)
    finished = sum(
        task.key(row, seed) in task.store.rows
        for row in range(len(task.rows))
        for seed in task.protocol.seeds
    )
    if finished:
        say(f"{task.benchmark.task}: {finished} answers are there already")
    if settings.loglikelihood:
        task.likelihood = LikelihoodTask(
            rows=task.rows,
            prompts=task.prompts.token_ids,
            facts=engine.facts,
            encoder=task.prompts.encoder,
            store=open_store(folder / f"likelihoods_{name}", depends_on, LikelihoodRow, rank=rank),
        )


def close_stores(task: Task) -> None:
    """Closes the stores that are open."""
    for store in stores_of(task):
        store.close()


def stores_of(task: Task) -> list[AnswerStore]:
    """The stores that are open."""
    found = (task.store, task.likelihood.store if task.likelihood else None)
    return [store for store in found if store is not None]


def check_complete(task: Task) -> None:
    """Refuses stores that lack something although every process has done its share.

    Raises:
        RunFailure: names what is missing.
    """
    assert task.store is not None
    missing = sum(
        task.key(row, seed) not in task.store.rows
        for row in range(len(task.rows))
        for seed in task.protocol.seeds
    ) + len(task.likelihood.missing() if task.likelihood else [])
    if missing:
        raise RunFailure(
            f"{task.store.path}: {missing} rows of other processes are not there; is the output "
            "path one that all machines share? If so, run the command again"
        )


def say(message: str) -> None:
    """A line on standard error, of the main process; standard output is for results."""
    if is_main_process():
        print(f"eval-harness: {message}", file=sys.stderr, flush=True)


def write_out(task: Task) -> None:
    """The first prompt of a task and its first reference, on standard error."""
    row, name = task.rows[0], task.benchmark.task
    say(f"{name}: the prompt of row {row.row_id!r}:\n{task.prompts.texts[0]}")
    say(
        f"{name}: its reference:\n{row.references[0]}"
        if row.references
        else f"{name}: no reference"
    )
