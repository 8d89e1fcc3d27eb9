"""Validation loss and sample answers of the student while it trains."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.probe import in_eval_mode, unwrap
from distillens_plugin.losses.final_logits import CrossEntropy
from distillens_plugin.models.end_tokens import end_token_ids
from distillens_plugin.models.generating import Decoding, answer, begin, generating, num_token_ids
from distillens_plugin.training.validation_terms import PREFIX, TeacherTerms
from eval_harness import METRICS
from eval_harness.errors import NotFinite

_NUM_NAMED = 8


def validation_scores(
    model: nn.Module,
    dataset: InstructionDataset,
    *,
    batch_size: int,
    accelerator: Accelerator,
    terms: TeacherTerms | None = None,
) -> dict[str, float]:
    """`validation_loss`, the negative log-likelihood per supervised token of a data set, in nats.

    Batches hold rows of similar length and are dealt out over the ranks; every row counts once.
    All ranks make as many passes, as sharded models need: one that has no batch left repeats one.

    Args:
        terms: also evaluated, as `val/kd` and the like: means over the supervised tokens. Those
            that are not finite are left out: they decide nothing.
    Raises:
        NotFinite: the loss is NaN or infinite; names the rows of the first such batches.
    """
    order = sorted(range(len(dataset)), key=lambda index: dataset.lengths[index])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rounds = range(0, len(batches), accelerator.num_processes)
    mine = [start + accelerator.process_index for start in rounds]
    # Sums over positions: a count of 1 keeps the loss term from dividing by its own batch.
    term = CrossEntropy()
    nll, count = 0.0, 0
    broken: list[str] = []
    others: Counter[str] = Counter()
    bare = unwrap(model)
    with in_eval_mode(bare), accelerator.autocast():
        for number in mine:
            indices = batches[number % len(batches)]
            batch, targets = collate([dataset[index] for index in indices])
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            output = forward(bare, batch)
            loss = term({".": {"output": output}}, {}, {**targets, "num_supervised": 1.0}).item()
            sums = terms.sums(batch, targets, output) if terms is not None else {}
            if number >= len(batches):
                continue
            if not math.isfinite(loss):
                broken += targets["row_ids"]
            nll += loss
            count += targets["positions"].numel()
            others.update(sums)
    parts = gather_object([(nll, count, broken, others)])
    rows = [row for _, _, part, _ in parts for row in part]
    if rows:
        more = f" and {len(rows) - _NUM_NAMED} more" if len(rows) > _NUM_NAMED else ""
        raise NotFinite(
            f"the validation loss is not finite in rows {', '.join(rows[:_NUM_NAMED])}{more}"
        )
    num_supervised = max(1, sum(part for _, part, *_ in parts))
    totals: Counter[str] = Counter()
    for *_, part in parts:
        totals.update(part)
    means = {f"{PREFIX}{name}": total / num_supervised for name, total in totals.items()}
    mean = sum(part for part, *_ in parts) / num_supervised
    return {"validation_loss": mean} | {n: v for n, v in means.items() if math.isfinite(v)}


@dataclass(frozen=True)
class SampleAnswer:
    """One generated answer beside its reference."""

    prompt: str
    answer: str
    reference: str


def sample_answers(
    model: nn.Module,
    dataset: InstructionDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_rows: int,
    max_new_tokens: int,
) -> list[SampleAnswer]:
    """Greedy answers to the first rows of a data set.

    Every process calls it if the model is sharded, though with other numbers of rows, or 0.
    """
    decoding = _decoding(model, tokenizer, dataset, max_new_tokens=max_new_tokens)
    answers = []
    with generating(model):
        for row in dataset.rows[:num_rows]:
            (ids,) = answer(model, [begin(row.prompt_ids, tokenizer)], decoding)
            text = _text(ids, decoding, tokenizer)
            answers.append(SampleAnswer(tokenizer.decode(row.prompt_ids), text, row.references[0]))
    return answers


def validation_rouge(
    model: nn.Module,
    dataset: InstructionDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    max_new_tokens: int,
    accelerator: Accelerator,
    metric: str = "rougeL",
    batch_size: int = 32,
) -> float:
    """Mean ROUGE-L (x 100) of one sampled answer per row, temperature 1, as the paper picks `best`.

    Each batch has a seed of its own, so the score does not depend on the number of processes.
    """
    order = sorted(range(len(dataset)), key=lambda index: len(dataset.rows[index].prompt_ids))
    starts = range(0, len(order), batch_size)
    mine = list(starts)[accelerator.process_index :: accelerator.num_processes]
    answers: list[tuple[int, str]] = []
    decoding = _decoding(model, tokenizer, dataset, max_new_tokens=max_new_tokens, temperature=1.0)
    with accelerator.autocast(), torch.random.fork_rng(), generating(model):
        for start in mine:
            indices = order[start : start + batch_size]
            prompts = [begin(dataset.rows[i].prompt_ids, tokenizer) for i in indices]
            torch.manual_seed(seed * 1_000_003 + start)
            found = answer(model, prompts, decoding)
            texts = [_text(ids, decoding, tokenizer) for ids in found]
            answers += zip(indices, texts, strict=True)
    gathered = gather_object(answers)
    scores = METRICS[metric].score(
        [text for _, text in gathered],
        [dataset.rows[index].references for index, _ in gathered],
        None,
    )
    return 100.0 * sum(scores) / max(1, len(scores))


def _decoding(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    dataset: InstructionDataset,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
) -> Decoding:
    return Decoding(
        end_ids=end_token_ids(tokenizer, dataset),
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=max_new_tokens,
        num_ids=num_token_ids(tokenizer, model),
        temperature=temperature,
    )


def _text(answer_ids: list[int], decoding: Decoding, tokenizer: PreTrainedTokenizerBase) -> str:
    """Without its end token, which the tokenizer may not leave out itself."""
    if answer_ids[-1:] and answer_ids[-1] in decoding.end_ids:
        answer_ids = answer_ids[:-1]
    return str(tokenizer.decode(answer_ids, skip_special_tokens=True)).strip()
