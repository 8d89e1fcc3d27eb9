"""Tokenised rows, and counts of what was read, kept and dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from distillens_plugin.data.spec import DatasetSpec
from distillens_plugin.data.supervision import IGNORED


@dataclass(frozen=True)
class Row:
    """One row that is trained on.

    Attributes:
        id: the row's own `id`, or its place in the source.
        prompt_ids: the prompt's tokens; see `eval_harness.shared.text.tokenisation`.
        response_ids: the first reference's tokens and the end token, as far as `max_length` leaves
            room; in a conversation all that follows the first answer's beginning.
        references: the text of every reference; in a conversation, of its first answer.
        learnt: (start, end) of the stretches that are trained on, of a conversation; None: the
            response.
    """

    id: str
    prompt_ids: list[int]
    response_ids: list[int]
    references: list[str]
    learnt: tuple[tuple[int, int], ...] | None = None


@dataclass
class DataCounts:
    """What became of the rows: read = kept + empty + dropped_long_prompts.

    `cut` prompts and `truncated_responses` are kept; the tokens are those of the kept rows.
    `as_text` rows hold text that looks like special tokens, tokenised as text; in `special` rows
    the tokenizer turns such text into special tokens.
    """

    read: int = 0
    kept: int = 0
    empty: int = 0
    dropped_long_prompts: int = 0
    cut: int = 0
    truncated_responses: int = 0
    as_text: int = 0
    special: int = 0
    tokens: int = 0
    supervised_tokens: int = 0


class InstructionDataset(Dataset):
    """Tokenised rows, in the order of their source.

    Items are what `distillens.collate` takes: `input_ids` and `labels` (lists of equal length, -100
    where nothing is supervised), `id`, `pad_id`, `max_length`.

    Attributes:
        spec: what was asked for.
        rows: the kept rows; samples are generated from their prompts and references.
        lengths: tokens of each row.
        counts: what was read, kept, dropped and cut.
        prefix_ids: what every prompt begins with; often empty.
        end_ids: the token that ends a response, and so an answer.
        notes: phrases about anything unusual in the tokens.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        rows: Sequence[Row],
        counts: DataCounts,
        *,
        pad_id: int,
        prefix_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.rows = list(rows)
        self.counts = counts
        self.pad_id = pad_id
        self.prefix_ids = tuple(prefix_ids)
        self.end_ids = tuple(end_ids)
        self.notes = tuple(notes)
        self.lengths = [len(row.prompt_ids) + len(row.response_ids) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        input_ids = row.prompt_ids + row.response_ids
        labels = [IGNORED] * len(input_ids)
        for start, end in self.learnt(row):
            labels[start:end] = input_ids[start:end]
        return {
            "input_ids": input_ids,
            "labels": labels,
            "id": row.id,
            "pad_id": self.pad_id,
            "max_length": self.spec.max_length,
        }

    def learnt(self, row: Row) -> Sequence[tuple[int, int]]:
        """(start, end) of the row's stretches that carry labels, in order."""
        length = len(row.prompt_ids) + len(row.response_ids)
        if self.spec.loss_on_prompt:
            return [(0, length)]
        return [(len(row.prompt_ids), length)] if row.learnt is None else row.learnt

    def describe(self) -> str:
        """One line for people: what was read, kept, dropped and cut."""
        counts = self.counts
        return (
            f"{self.spec.path}: {counts.read:,} rows read, {counts.kept:,} kept "
            f"({counts.dropped_long_prompts:,} with prompts over {self.spec.max_prompt_length} "
            f"tokens and {counts.empty:,} with empty responses dropped; {counts.cut:,} prompts and "
            f"{counts.truncated_responses:,} responses cut); {counts.supervised_tokens:,} of "
            f"{counts.tokens:,} tokens supervised" + "".join(f"; {note}" for note in self._notes())
        )

    def _notes(self) -> list[str]:
        counts, notes = self.counts, list(self.notes)
        if counts.as_text:
            notes.append(
                f"{counts.as_text:,} rows hold text that looks like special tokens, tokenised as "
                "text"
            )
        if counts.special:
            notes.append(
                f"WARNING: {counts.special:,} rows hold special tokens in their text, which this "
                "tokenizer cannot tokenise as text"
            )
        return notes

    def count_tokens(self) -> None:
        """Fills in the counts of tokens."""
        self.counts.tokens = sum(self.lengths)
        # The first token follows nothing, so no position predicts it.
        self.counts.supervised_tokens = sum(
            max(0, end - max(1, start)) for row in self.rows for start, end in self.learnt(row)
        )
