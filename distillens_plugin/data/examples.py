"""Instruction data: tasks and responses become token ids with the prompt masked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distillens_plugin.data.conversation_rows import conversation_rows
from distillens_plugin.data.dataset import DataCounts, InstructionDataset, Row
from distillens_plugin.data.rows import RawRow, read_rows
from distillens_plugin.data.spec import DatasetSpec, key_of
from eval_harness.errors import DistillensError
from eval_harness.shared.text.first_tokens import check_add_bos_token
from eval_harness.shared.text.special_text import Part
from eval_harness.shared.text.templates import check_template, cut_body, cut_prompt, prompt_parts
from eval_harness.shared.text.tokenisation import Encoded, Outcome, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DataCounts", "InstructionDataset", "Row", "load_examples"]

# A ready prompt ends in its own "\n\n### Response:\n"; a longer last paragraph belongs to the task.
_LONGEST_ENDING = 64


def load_examples(
    spec: DatasetSpec,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    where: str,
    default_split: str = "train",
    first_rows: int | None = None,
) -> InstructionDataset:
    """Reads and tokenises a data set.

    Prompt and response are tokenised separately, so that a prompt has the same tokens here and when
    an answer to it is generated. (The paper's code tokenises both as one text and splits it at the
    prompt's length.) A conversation is tokenised as the one text that its chat template makes.

    Args:
        spec: the recipe's section.
        tokenizer: with EOS and pad tokens, as `load_tokenizer` gives it.
        where: the section's YAML path, for errors.
        default_split: for Hub data sets and folders, where the section names none.
        first_rows: read no more than so many rows; None is all.
    Raises:
        DistillensError: the data cannot be read, or nothing is supervised.
    """
    _check_template(spec, where)
    raws = list(read_rows(spec, where=where, default_split=default_split, first_rows=first_rows))
    encode = RowEncoder(spec, tokenizer, where)
    dataset = InstructionDataset(
        spec,
        encode(raws),
        encode.counts,
        pad_id=tokenizer.pad_token_id,
        prefix_ids=encode.encoder.prefix_ids,
        end_ids=encode.encoder.end_ids[-1:],
        notes=encode.encoder.describe(),
    )
    dataset.count_tokens()
    if dataset.counts.supervised_tokens == 0:
        raise DistillensError(
            f"{where}: nothing is supervised, so nothing can be learnt: {dataset.describe()}; give "
            "rows with responses, or raise max_prompt_length if their prompts were too long"
        )
    return dataset


class RowEncoder:
    """Tokenises rows, all at once or a few at a time, and counts what becomes of them.

    Args:
        spec, tokenizer, where: as for `load_examples`.

    Attributes:
        counts: of all rows so far, without their tokens.
        encoder: turns texts into tokens.
    """

    def __init__(self, spec: DatasetSpec, tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
        _check_template(spec, where)
        self.spec = spec
        self.where = where
        self.encoder = _encoder(spec, tokenizer, where)
        self.counts = DataCounts()

    def __call__(self, raws: Sequence[RawRow]) -> list[Row]:
        """The rows that are kept; each row's tokens depend on that row alone."""
        spec, encoder, counts = self.spec, self.encoder, self.counts
        kept = [raw for raw in raws if raw.references and raw.references[0].strip()]
        counts.read += len(raws)
        counts.empty += len(raws) - len(kept)
        talks = [raw for raw in kept if raw.conversation is not None]
        tasks = [raw for raw in kept if raw.conversation is None]
        talked = iter(conversation_rows(talks, spec, encoder, where=self.where, counts=counts))
        answered = iter(self._task_rows(tasks))
        # In the rows' own order, whatever they are.
        found = [next(answered if raw.conversation is None else talked) for raw in kept]
        rows = [row for row in found if row is not None]
        counts.kept += len(rows)
        return rows

    def _task_rows(self, raws: Sequence[RawRow]) -> Iterator[Row | None]:
        """A row of each task; None where its prompt is too long and is not to be cut."""
        spec, encoder, counts = self.spec, self.encoder, self.counts
        prompts = _prompts(raws, encoder, spec.path)
        responses = encoder.responses([raw.references[0] for raw in raws])
        for raw, prompt, response in zip(raws, prompts, responses, strict=True):
            prompt_ids = prompt.ids
            if len(prompt_ids) > spec.max_prompt_length:
                if spec.long_prompts == "drop":
                    counts.dropped_long_prompts += 1
                    yield None
                    continue
                prompt_ids = _cut(raw, spec, encoder, self.where)
                counts.cut += 1
            room = spec.max_length - len(prompt_ids)
            response_ids = [*response.ids, *encoder.end_ids]
            counts.truncated_responses += len(response_ids) > room
            outcomes = (prompt.outcome, response.outcome)
            counts.special += Outcome.SPECIAL in outcomes
            counts.as_text += Outcome.SPECIAL not in outcomes and Outcome.AS_TEXT in outcomes
            yield Row(raw.id, prompt_ids, response_ids[:room], raw.references)


def _check_template(spec: DatasetSpec, where: str) -> None:
    try:
        check_template(spec.template)
    except DistillensError as error:
        raise DistillensError(f"{key_of(where, 'template')}: {error}") from error


def _encoder(spec: DatasetSpec, tokenizer: "PreTrainedTokenizerBase", where: str) -> TextEncoder:
    add_bos_token = check_add_bos_token(spec.add_bos_token, key_of(where, "add_bos_token"))
    try:
        return TextEncoder(tokenizer, template=spec.template, add_bos_token=add_bos_token)
    except DistillensError as error:
        raise DistillensError(f"{where}: {error}") from error


def _prompts(rows: Sequence[RawRow], encoder: TextEncoder, path: str) -> list[Encoded]:
    parts = [_parts(row, encoder) for row in rows]
    prompts = encoder.prompts(parts)
    for row, pieces, prompt in zip(rows, parts, prompts, strict=True):
        encoder.check_turns(pieces, prompt.outcome, f"{path}: row {row.id!r}")
    return prompts


def _parts(row: RawRow, encoder: TextEncoder) -> list[Part]:
    if row.instruction is None:
        # A ready prompt includes its template: its special tokens are intended.
        return [Part(row.prompt or "", from_row=False)]
    before, body, after = prompt_parts(
        encoder.template, row.instruction, row.input, tokenizer=encoder.tokenizer
    )
    return [*before, body, *after]


def _cut(row: RawRow, spec: DatasetSpec, encoder: TextEncoder, where: str) -> list[int]:
    limit = spec.max_prompt_length
    if row.instruction is None:
        text, ending = _split_ready_prompt(row.prompt or "")
        parts: tuple[list[Part], Part, list[Part]] = ([], Part(text, False), [Part(ending, False)])
        ids = cut_body(parts, encoder, limit)
        # If its last line alone is too long, nothing can be kept whole.
        return (
            ids if ids is not None else encoder.prompt([Part(row.prompt or "", False)]).ids[:limit]
        )
    try:
        ids, _ = cut_prompt(
            spec.template, row.instruction, row.input, max_tokens=limit, tokenizer=encoder
        )
    except DistillensError as error:
        raise DistillensError(f"{key_of(where, 'max_prompt_length')}: {error}") from error
    return ids


def _split_ready_prompt(prompt: str) -> tuple[str, str]:
    """(text, last line) of a ready prompt: what asks for the response must survive the cut."""
    text, separator, ending = prompt.rpartition("\n\n")
    if not separator or len(ending) > _LONGEST_ENDING:
        return prompt, ""
    return text, separator + ending
