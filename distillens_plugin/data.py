"""Instruction data: tasks and responses become token ids with the prompt masked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from distillens_plugin.rows import RawRow, read_rows
from distillens_plugin.supervision import IGNORED
from eval_harness.errors import DistillensError
from eval_harness.templates import check_template, cut_prompt, render_prompt

# A ready prompt ends in its own "\n\n### Response:\n"; a longer last paragraph belongs to the task.
_LONGEST_ENDING = 64


@dataclass(frozen=True)
class DatasetSpec:
    """What to read and how; the recipe's `datasets.train` and `datasets.validation`.

    Attributes:
        path: a .jsonl file, a folder, or a name on the Hub.
        name: the configuration of a Hub data set.
        data_files: one file of a Hub repository or folder.
        split: of a Hub data set or folder; None leaves it to the caller.
        template: a name of `eval_harness.templates` or a format string; not used by rows that bring
            a ready `prompt`.
        max_length: prompt, response and EOS together, in tokens.
        max_prompt_length: in tokens, below `max_length`.
        long_prompts: `drop` as the paper does, or `cut` the text in them, never the template.
        num_rows: only the first rows that are read; None is all.
        loss_on_prompt: supervise the prompt too.
    """

    path: str
    name: str | None = None
    data_files: str | None = None
    split: str | None = None
    template: str = "alpaca"
    max_length: int = 512
    max_prompt_length: int = 256
    long_prompts: str = "drop"
    num_rows: int | None = None
    loss_on_prompt: bool = False


@dataclass(frozen=True)
class Row:
    """One row that is trained on.

    Attributes:
        id: the row's own `id`, or its place in the source.
        prompt_ids: the prompt's tokens, no BOS added.
        response_ids: the first reference's tokens and EOS, as far as `max_length` leaves room.
        references: the text of every reference.
    """

    id: str
    prompt_ids: list[int]
    response_ids: list[int]
    references: list[str]


@dataclass
class DataCounts:
    """What became of the rows: read = kept + empty + dropped_long_prompts.

    `cut` prompts and `truncated_responses` are kept; the tokens are those of the kept rows.
    """

    read: int = 0
    kept: int = 0
    empty: int = 0
    dropped_long_prompts: int = 0
    cut: int = 0
    truncated_responses: int = 0
    tokens: int = 0
    supervised_tokens: int = 0


class InstructionDataset(Dataset):
    """Tokenised rows, in the order of their source.

    Items are what `distillens.collate` takes: `input_ids` and `labels` (lists of equal length, -100
    where nothing is supervised), `id`, `pad_id`, `max_length`.

    Attributes:
        spec: what was asked for.
        rows: the kept rows; their prompts and references serve to generate samples.
        lengths: tokens of each row.
        counts: what was read, kept, dropped and cut.
    """

    def __init__(self, spec: Any, rows: Sequence[Row], counts: DataCounts, *, pad_id: int) -> None:
        self.spec = spec
        self.rows = list(rows)
        self.counts = counts
        self.pad_id = pad_id
        self.lengths = [len(row.prompt_ids) + len(row.response_ids) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        input_ids = row.prompt_ids + row.response_ids
        num_masked = self.num_masked(row)
        return {
            "input_ids": input_ids,
            "labels": [IGNORED] * num_masked + input_ids[num_masked:],
            "id": row.id,
            "pad_id": self.pad_id,
            "max_length": self.spec.max_length,
        }

    def num_masked(self, row: Row) -> int:
        """How many of the row's first tokens carry no label."""
        return 0 if self.spec.loss_on_prompt else len(row.prompt_ids)

    def describe(self) -> str:
        """One line for people: what was read and what became of it."""
        counts = self.counts
        return (
            f"{self.spec.path}: {counts.read:,} rows read, {counts.kept:,} kept "
            f"({counts.dropped_long_prompts:,} with prompts over {self.spec.max_prompt_length} "
            f"tokens and {counts.empty:,} with empty responses dropped; {counts.cut:,} prompts and "
            f"{counts.truncated_responses:,} responses cut); {counts.supervised_tokens:,} of "
            f"{counts.tokens:,} tokens supervised"
        )


def load_examples(
    spec: Any, tokenizer: Any, *, where: str, default_split: str = "train"
) -> InstructionDataset:
    """Reads and tokenises a data set.

    Prompt and response are tokenised apart, so that a prompt has the same tokens here and when an
    answer to it is generated. (The reference tokenises both as one text and cuts that at the
    prompt's length.)

    Args:
        spec: a `DatasetSpec`, or the recipe's section with the same fields.
        tokenizer: with EOS and pad tokens, as `load_tokenizer` gives it.
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
    Raises:
        DistillensError: the data cannot be read, a limit leaves no room, or nothing is supervised.
    """
    _check(spec, where)
    counts = DataCounts()
    kept: list[RawRow] = []
    for row in read_rows(spec, where=where, default_split=default_split):
        counts.read += 1
        if row.references and row.references[0].strip():
            kept.append(row)
        else:
            counts.empty += 1
    encode = _encoder(tokenizer)
    prompts = encode([_prompt(row, spec.template, tokenizer) for row in kept])
    responses = encode([row.references[0] for row in kept])
    rows = []
    for raw, prompt_ids, response_ids in zip(kept, prompts, responses, strict=True):
        if len(prompt_ids) > spec.max_prompt_length:
            if spec.long_prompts == "drop":
                counts.dropped_long_prompts += 1
                continue
            prompt_ids = _cut(raw, spec, tokenizer, where)
            counts.cut += 1
        room = spec.max_length - len(prompt_ids)
        response_ids = [*response_ids, tokenizer.eos_token_id]
        counts.truncated_responses += len(response_ids) > room
        rows.append(Row(raw.id, prompt_ids, response_ids[:room], raw.references))
    counts.kept = len(rows)
    dataset = InstructionDataset(spec, rows, counts, pad_id=tokenizer.pad_token_id)
    _count_tokens(dataset)
    if counts.supervised_tokens == 0:
        raise DistillensError(
            f"{where}: nothing is supervised, so nothing can be learnt: {dataset.describe()}"
        )
    return dataset


def _check(spec: Any, where: str) -> None:
    if spec.max_prompt_length >= spec.max_length:
        raise DistillensError(
            f"{where}.max_prompt_length = {spec.max_prompt_length}, expected less than max_length "
            f"({spec.max_length}), or no room is left for the response"
        )
    if spec.long_prompts not in ("drop", "cut"):
        raise DistillensError(f"{where}.long_prompts = {spec.long_prompts!r}, expected drop or cut")
    try:
        check_template(spec.template)
    except DistillensError as error:
        raise DistillensError(f"{where}.template: {error}") from error


def _prompt(row: RawRow, template: str, tokenizer: Any) -> str:
    if row.instruction is None:
        return row.prompt or ""
    return render_prompt(template, row.instruction, row.input, tokenizer=tokenizer)


def _cut(row: RawRow, spec: Any, tokenizer: Any, where: str) -> list[int]:
    template, instruction = spec.template, row.instruction
    if instruction is None:
        template, instruction = _split_ready_prompt(row.prompt or "")
    try:
        ids, _ = cut_prompt(
            template,
            instruction,
            row.input,
            max_tokens=spec.max_prompt_length,
            tokenizer=tokenizer,
        )
    except DistillensError as error:
        raise DistillensError(f"{where}.max_prompt_length: {error}") from error
    return ids


def _split_ready_prompt(prompt: str) -> tuple[str, str]:
    """(format string, text) of a ready prompt: what asks for the response must survive the cut."""
    text, separator, ending = prompt.rpartition("\n\n")
    if not separator or len(ending) > _LONGEST_ENDING:
        return "{instruction}", prompt
    ending = (separator + ending).replace("{", "{{").replace("}", "}}")
    return "{instruction}" + ending, text


def _encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    def encode(texts: list[str]) -> list[list[int]]:
        # One call for all texts: a fast tokenizer works on them in parallel.
        return (
            tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        )

    return encode


def _count_tokens(dataset: InstructionDataset) -> None:
    counts = dataset.counts
    counts.tokens = sum(dataset.lengths)
    # The first token follows nothing, so no position predicts it.
    counts.supervised_tokens = sum(
        length - max(1, dataset.num_masked(row))
        for length, row in zip(dataset.lengths, dataset.rows, strict=True)
    )
