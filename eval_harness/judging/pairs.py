"""The pairs of answers that are judged, each as two messages: one for each order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval_harness.benchmarks.definition import Benchmark
from eval_harness.benchmarks.rows import Row, read_row
from eval_harness.comparison.systems import System
from eval_harness.errors import DistillensError
from eval_harness.judging.prompt import PairPrompt
from eval_harness.results.schema import Sample
from eval_harness.shared.digest import digest
from eval_harness.shared.near import near_names
from eval_harness.shared.row_limit import num_limited
from eval_harness.shared.shortened import shortened

Key = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two systems' answers to one row, with one seed.

    Attributes:
        answers: of the first system, and of the second.
        messages: to the judge, with the first system's answer as A, and with it as B.
    """

    task: str
    row_id: str
    seed: int
    answers: tuple[str, str]
    messages: tuple[str, str]

    @property
    def is_same(self) -> bool:
        """Whether there is nothing to judge."""
        return self.answers[0].strip() == self.answers[1].strip()

    def key(self, order: int) -> Key:
        """Of the verdict on one of the messages: another answer or prompt needs another one."""
        return self.task, self.row_id, digest(self.messages[order])


def chosen_tasks(a: System, tasks: Sequence[str] | None) -> list[str]:
    """The tasks to judge: those named, or all that both systems have.

    Raises:
        DistillensError: a task that they do not both have.
    """
    if tasks is None:
        return list(a.samples)
    for name in tasks:
        if name not in a.samples:
            raise DistillensError(
                f"--tasks {shortened(name)}: not a task that both systems have, which are "
                f"{', '.join(a.samples)}{near_names(name, a.samples)}"
            )
    return list(dict.fromkeys(tasks))


def make_pairs(
    a: System,
    b: System,
    *,
    task: str,
    prompt: PairPrompt,
    limit: float | None = None,
    all_seeds: bool = False,
) -> list[Pair]:
    """The pairs of a task, row by row.

    Args:
        a, b: from `load_systems`, so with the same rows in the same order.
        limit: the first rows only: their number, or their share if below 1, rounded up.
        all_seeds: every answer; otherwise the first of each row.
    Raises:
        DistillensError: the task has no texts, other seeds for one system, or no question.
    """
    rows = list(zip(a.samples[task], b.samples[task], strict=True))
    pairs = []
    for ours, theirs in rows[: num_limited(limit, len(rows))]:
        if ours.is_choice or theirs.is_choice:
            raise DistillensError(
                f"{task}: its answers are likelihoods of given texts, so there is nothing to "
                "judge; leave it out of --tasks"
            )
        if all_seeds and ours.seeds != theirs.seeds:
            raise DistillensError(
                f"{task}: row {ours.row_id!r} has the seeds {ours.seeds} in {a.source} and "
                f"{theirs.seeds} in {b.source}; drop --all_seeds"
            )
        if prompt.shows_reference and not ours.target:
            raise DistillensError(
                f"{task}: row {ours.row_id!r} has no reference, which this prompt shows the judge; "
                "use --prompt pair, or leave the task out of --tasks"
            )
        question = _question(ours, a, task)
        for place in range(len(ours.seeds) if all_seeds else 1):
            answers = ours.filtered_resps[place], theirs.filtered_resps[place]
            first, second = (
                prompt.fill(
                    question=question,
                    answer_a=answer_a,
                    answer_b=answer_b,
                    reference=ours.target[0] if ours.target else "",
                )
                for answer_a, answer_b in (answers, answers[::-1])
            )
            pairs.append(Pair(task, ours.row_id, ours.seeds[place], answers, (first, second)))
    return pairs


def _question(sample: Sample, system: System, task: str) -> str:
    """The row's own question without a template, or the whole prompt where it has other fields."""
    config = system.configs.get(task, {})
    benchmark = Benchmark(
        task=task,
        source=Path(system.source),
        fields=config.get("fields") or {},
        newline=config.get("newline"),
        references=config.get("references", "some"),
    )
    try:
        row = read_row(benchmark, sample.doc, sample.doc_id, system.source)
    except DistillensError as error:
        if sample.prompt:
            return sample.prompt
        raise DistillensError(
            f"{error}; and no prompt in its arguments, so there is no question to judge by"
        ) from error
    return _text(row)


def _text(row: Row) -> str:
    if row.conversation is None:
        return row.prompt or "\n\n".join(part for part in (row.instruction, row.input) if part)
    turns = row.conversation.messages
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)
