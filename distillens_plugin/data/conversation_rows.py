"""Conversations become rows: their tokens, cut to the recipe's lengths, and what has labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from distillens_plugin.data.conversations import answer_text
from distillens_plugin.data.dataset import DataCounts, Row
from distillens_plugin.data.rows import RawRow
from distillens_plugin.data.spec import DatasetSpec, key_of
from eval_harness.errors import DistillensError
from eval_harness.shared.text.answer_turns import answer_turns
from eval_harness.shared.text.conversation_cut import cut_conversation
from eval_harness.shared.text.messages import Conversation
from eval_harness.shared.text.tokenisation import Outcome, TextEncoder
from eval_harness.shared.text.turn_tokens import EncodedTurns, encode_turns


@dataclass(frozen=True)
class _Prompted:
    """An encoded conversation whose size is that of its prompt."""

    turns: EncodedTurns

    def __len__(self) -> int:
        return self.turns.prompt_length


def conversation_rows(
    raws: Sequence[RawRow],
    spec: DatasetSpec,
    encoder: TextEncoder,
    *,
    where: str,
    counts: DataCounts,
) -> list[Row | None]:
    """A row of each conversation; None where its prompt is too long and is not to be cut.

    Args:
        raws: each with a conversation that has an answer.
        where: the section's YAML path, for errors.
        counts: of the data set; counts the rows that are dropped, cut and truncated.
    Raises:
        DistillensError: see `encode_turns`.
    """
    conversations = [raw.conversation for raw in raws if raw.conversation is not None]
    places = [f"{spec.path}: row {raw.id!r}" for raw in raws]
    options = {"supervise": spec.supervise}
    encoded = encode_turns(conversations, encoder, places=places, **options)
    rows: list[Row | None] = []
    for raw, conversation, turns, place in zip(raws, conversations, encoded, places, strict=True):
        is_long = turns.prompt_length > spec.max_prompt_length
        if is_long and spec.long_prompts == "cut":
            kept = _cut(conversation, turns.first, spec, encoder, place=place, where=where)
        else:
            kept = turns
        # A template may print so much before what it marks that nothing learnt is left.
        is_lost = not any(kept.is_learnt[: spec.max_length])
        if is_lost or (is_long and spec.long_prompts == "drop"):
            counts.dropped_long_prompts += 1
            rows.append(None)
            continue
        counts.cut += is_long
        counts.truncated_responses += len(kept.ids) > spec.max_length
        counts.special += kept.outcome is Outcome.SPECIAL
        counts.as_text += kept.outcome is Outcome.AS_TEXT
        references = raw.references
        if turns.first != answer_turns(conversation, spec.supervise)[0]:
            # The template marks nothing of the turns before.
            references = [answer_text(conversation.messages[turns.first])]
        rows.append(_row(raw.id, references, kept, spec.max_length))
    return rows


def _row(row_id: str, references: list[str], turns: EncodedTurns, max_length: int) -> Row:
    ids, is_learnt = turns.ids[:max_length], turns.is_learnt[:max_length]
    # A row that is cut within a question would only make the loss compute what nothing learns from.
    while not is_learnt[-1]:
        is_learnt.pop()
    start, stretches = 0, []
    for learnt, group in groupby(is_learnt):
        end = start + len(list(group))
        if learnt:
            stretches.append((start, end))
        start = end
    prompt_ids, response_ids = ids[: turns.prompt_length], ids[turns.prompt_length : start]
    return Row(row_id, prompt_ids, response_ids, references, tuple(stretches))


def _cut(
    conversation: Conversation,
    first: int,
    spec: DatasetSpec,
    encoder: TextEncoder,
    *,
    place: str,
    where: str,
) -> EncodedTurns:
    answers = conversation.messages[first:]

    def encode(question: Conversation) -> _Prompted:
        whole = replace(question, messages=(*question.messages, *answers))
        (found,) = encode_turns([whole], encoder, supervise=spec.supervise, places=[place])
        return _Prompted(found)

    try:
        question = conversation.before(first)
        return cut_conversation(question, encode, spec.max_prompt_length).turns
    except DistillensError as error:
        raise DistillensError(f"{key_of(where, 'max_prompt_length')}: {error}") from error
