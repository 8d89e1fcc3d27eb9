"""What benchmarks/differences.py compares: the lens and two divergences as in other code.

Written from the formulas and the order of operations of DistillLens (arXiv 2602.13567) and
DistiLLM-2 (arXiv 2503.07067), each with its textbook form in float64.

Legend: B rows, T tokens, K layer pairs, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Row = dict[str, Any]
IGNORED = -100
EPSILON = 1e-8


@dataclass(frozen=True)
class Sizes:
    """A pair of random GPT-2s: blocks and width of both models, and the layer pairs."""

    student: tuple[int, int]
    teacher: tuple[int, int]
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]


# The paper's layer pairs of GPT-2 120M and 340M from 1.5B; widths and vocabulary are smaller.
PAIRS = {
    "GPT-2 120M from 1.5B": Sizes((12, 48), (48, 64), (2, 4, 6, 8, 10), (8, 16, 24, 32, 40)),
    "GPT-2 340M from 1.5B": Sizes((24, 56), (48, 64), (4, 8, 12, 16, 20), (8, 16, 24, 32, 40)),
}
# The paper's code pads every row to 512 tokens.
MASK_VOCAB, MAX_TOKENS = 512, 512


def random_gpt2(blocks: int, width: int, seed: int) -> nn.Module:
    """A GPT-2 without dropout, with weights that leave its lens neither flat nor one-hot."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=MASK_VOCAB,
        n_positions=MAX_TOKENS,
        n_embd=width,
        n_layer=blocks,
        n_head=4,
        initializer_range=0.1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def random_rows(num_rows: int, seed: int) -> list[Row]:
    """Rows of 40 to 512 tokens (the logarithm is uniform), 10 to 90 % of them a prompt.

    The prompt is not supervised.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    rows = []
    for index in range(num_rows):
        length = round(math.exp(between(math.log(40), math.log(MAX_TOKENS))))
        prompt = round(between(0.1, 0.9) * length)
        tokens = torch.randint(1, MASK_VOCAB, (length,), generator=generator).tolist()
        labels = [IGNORED] * prompt + tokens[prompt:]
        rows.append({"input_ids": tokens, "labels": labels, "id": str(index)})
    return rows


def padded(rows: list[Row]) -> tuple[dict[str, Tensor], Tensor]:
    """The batch as the paper's code pads it (to the longest length), and the mask [B, T].

    The mask is on where the *next* token is supervised.
    """
    shape = (len(rows), MAX_TOKENS)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "position_ids": torch.zeros(shape, dtype=torch.long),
    }
    mask_BT = torch.zeros(shape)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][index, :length] = torch.tensor(row["input_ids"])
        batch["attention_mask"][index, :length] = 1
        batch["position_ids"][index, :length] = torch.arange(length)
        labels = torch.tensor(row["labels"])
        mask_BT[index, : length - 1] = (labels[1:] != IGNORED).float()
    return batch, mask_BT


def lens_logits(
    model: nn.Module, batch: dict[str, Tensor], layers: tuple[int, ...]
) -> list[Tensor]:
    """Logits [B, T, V] of each layer, read through the unembedding without a norm."""
    states = model(**batch, output_hidden_states=True, use_cache=False).hidden_states
    return [model.lm_head(states[layer]) for layer in layers]  # type: ignore[operator]


def jsd_with_epsilon(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Jensen-Shannon per position in float32, with 1e-8 inside the mixture's logarithm."""
    log_p = teacher_logits.float().log_softmax(-1)
    log_q = student_logits.float().log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_mixture = (0.5 * p + 0.5 * q + EPSILON).log()
    return 0.5 * (p * (log_p - log_mixture)).sum(-1) + 0.5 * (q * (log_q - log_mixture)).sum(-1)


def jsd_float64(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Jensen-Shannon per position, by its textbook formula in float64."""
    p, q = teacher_logits.double().softmax(-1), student_logits.double().softmax(-1)
    mixture = 0.5 * (p + q)
    return 0.5 * (p * (p / mixture).log()).sum(-1) + 0.5 * (q * (q / mixture).log()).sum(-1)


def reference_lens(student: nn.Module, teacher: nn.Module, rows: list[Row], sizes: Sizes) -> Tensor:
    """The lens loss with the paper's code's stacking and mask."""
    batch, mask_BT = padded(rows)
    with torch.no_grad():
        teacher_BKTV = torch.stack(lens_logits(teacher, batch, sizes.teacher_layers), dim=1)
    student_BKTV = torch.stack(lens_logits(student, batch, sizes.student_layers), dim=1)
    # Entry b K + k of the logits is row b at layer k; entry k B + b of the mask is row b.
    loss_ST = jsd_with_epsilon(teacher_BKTV.flatten(0, 1), student_BKTV.flatten(0, 1))
    mask_ST = mask_BT.repeat(len(sizes.student_layers), 1)
    return (loss_ST * mask_ST).sum() / mask_ST.sum()


def float64_lens(student: nn.Module, teacher: nn.Module, rows: list[Row], sizes: Sizes) -> Tensor:
    """The lens loss row by row and layer by layer, without padding, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    num_terms = 0
    for row in rows:
        batch = {"input_ids": torch.tensor([row["input_ids"]])}
        supervised = torch.tensor(row["labels"])[1:] != IGNORED
        with torch.no_grad():
            teachers = lens_logits(teacher, batch, sizes.teacher_layers)
        students = lens_logits(student, batch, sizes.student_layers)
        for teacher_logits, student_logits in zip(teachers, students, strict=True):
            values = jsd_float64(
                teacher_logits[0, :-1][supervised], student_logits[0, :-1][supervised]
            )
            total = total + values.sum()
            num_terms += len(values)
    return total / num_terms


def skew_rkl_detached(teacher_logits: Tensor, student_logits: Tensor, alpha: float) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q) with the q of the mixture held fixed."""
    log_p, log_q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    parts = torch.stack([log_p + math.log(1 - alpha), log_q.detach() + math.log(alpha)])
    return (log_q.exp() * (log_q - parts.logsumexp(0))).sum(-1)


def skew_rkl_float64(teacher_logits: Tensor, student_logits: Tensor, alpha: float) -> Tensor:
    """The same divergence, by its textbook formula in float64."""
    p, q = teacher_logits.double().softmax(-1), student_logits.double().softmax(-1)
    return (q * (q / ((1 - alpha) * p + alpha * q)).log()).sum(-1)
