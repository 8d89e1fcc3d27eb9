"""A small student and teacher, a batch with labels, and the losses written out in float64."""

from typing import Any

import torch
from small_models import small_model, token_batch
from torch import Tensor, nn

from distillens_plugin.lens.probe import plain_model


def pair(name: str = "llama", *, dtype: torch.dtype = torch.float64, **more: Any) -> tuple:
    """A 3-layer student and a 5-layer teacher of other width."""
    student = small_model(name, layers=3, width=32, seed=1, dtype=dtype, **more)
    teacher = small_model(name, layers=5, width=48, seed=2, dtype=dtype, **more)
    return student.train(), teacher.requires_grad_(False)


def batch(*, rows: int = 3, tokens: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and labels [rows, tokens]; some of each row's first tokens are not supervised."""
    ids = token_batch(batch=rows, tokens=tokens, seed=seed)
    labels = ids.clone()
    for row in range(rows):
        labels[row, : 1 + row % (tokens - 2)] = -100
    return ids, labels


def run_both(student: nn.Module, teacher: nn.Module, ids: Tensor) -> None:
    """Both forward passes, as a training loop runs them."""
    mask = torch.ones_like(ids)
    student(input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        teacher(input_ids=ids, attention_mask=mask)


def naive(
    student: nn.Module, teacher: nn.Module, ids: Tensor, labels: Tensor, pairs: list, norm: str
) -> dict[str, Tensor]:
    """`lens` (JSD at 0.5), `kd` (forward KL) and `cross_entropy` of Llama-like models: means."""
    wanted = labels[:, 1:] != -100
    read = {}
    for role, model in (("student", student), ("teacher", teacher)):
        plain = plain_model(model)
        output = plain(input_ids=ids, output_hidden_states=True)

        def through_lens(k, plain=plain, output=output):
            hidden = output.hidden_states[k][:, :-1][wanted]
            return plain.lm_head(plain.model.norm(hidden) if norm == "final" else hidden)

        read[role] = (through_lens, output.logits[:, :-1][wanted])
    lens = [_jsd(read["teacher"][0](b), read["student"][0](a)) for a, b in pairs]
    p, q = (read[role][1].log_softmax(-1) for role in ("teacher", "student"))
    return {
        "lens": torch.stack(lens).mean(),
        "kd": (p.exp() * (p - q)).sum(-1).mean(),
        "cross_entropy": -q.gather(1, labels[:, 1:][wanted][:, None]).mean(),
    }


def _jsd(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    p, q = teacher_NV.softmax(-1), student_NV.softmax(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) / 2 + (q * (q / m).log()).sum(-1) / 2).mean()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """By name, those that are not zero; the model's are cleared."""
    found = {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    model.zero_grad()
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float) -> None:
    """Equal names, and no entry further off than `within`."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=within, atol=within, msg=name)


def attached_loss(
    lens: Any, student: nn.Module, teacher: nn.Module, rank: int, processes: int
) -> Tensor:
    """The attached lens's loss on one process's share of four rows, one of them all prompt.

    The mean over the processes, which DDP and FSDP2 take of its gradients, is the loss of all rows.
    """
    ids, labels = batch(rows=4)
    labels[3] = -100
    count = int((labels[:, 1:] != -100).sum())
    run_both(student, teacher, ids[rank::processes])
    return lens.loss(labels[rank::processes], num_items_in_batch=count / processes)
