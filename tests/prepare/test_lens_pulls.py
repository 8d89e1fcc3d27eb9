"""Gradients of the lens beside plain distillation's, against formulas written out in float64."""

import pytest
import torch
import torch.nn.functional as F
from tiny_run import save_tiny_model
from transformers import AutoModelForCausalLM

from distillens_plugin.data.collate import collate
from distillens_plugin.data.supervision import supervised_from_targets
from distillens_plugin.divergences import ForwardKL, make_divergence
from distillens_plugin.prepare.lens_pulls import Pulls, Streams, radial_share


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Teacher and student in float64 with layers that differ."""
    built = []
    for role, layers, seed in (("teacher", 4, 1), ("student", 2, 2)):
        folder = tmp_path_factory.mktemp(role)
        model = AutoModelForCausalLM.from_pretrained(
            save_tiny_model(folder, layers=layers, seed=seed)
        ).double()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(4 if parameter.dim() == 2 else 1)
                if "ln_f" in name:
                    parameter.add_(0.3)
        built.append(model.eval())
    return built


def batches():
    generator = torch.Generator().manual_seed(5)
    found = []
    for index, (length, prompt) in enumerate([(9, 3), (12, 5), (7, 2)]):
        ids = torch.randint(5, 500, (length,), generator=generator).tolist()
        row = {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "id": str(index)}
        batch, targets = collate([row])
        found.append((batch, supervised_from_targets(targets)))
    return found


def hidden(model, layer):
    """[N, D] of the same rows, from transformers' own hidden_states (layers below the last)."""
    rows = []
    for batch, supervised in batches():
        states = model(**batch, output_hidden_states=True).hidden_states
        rows.append(states[layer].flatten(0, 1)[supervised.positions])
    return torch.cat(rows)


def log_probs(model, rows, norm):
    rows = model.transformer.ln_f(rows) if norm == "final" else rows
    return torch.log_softmax(rows @ model.lm_head.weight.T, -1)


def named_gradients(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    head, others = [], []
    for name, parameter, gradient in zip(names, parameters, found, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        (head if name == "transformer.wte.weight" else others).append(gradient.flatten())
    return torch.cat(head), torch.cat(others)


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_the_lenss_gradient_beside_that_of_plain_distillation(models, norm):
    teacher, student = models
    pulls = Pulls(
        Streams(student, batches(), [1]),
        Streams(teacher, batches(), [2]),
        make_divergence("jsd"),
        2.0,
    )
    pull = pulls.of((1, 2), norm)
    with torch.no_grad():
        target = F.log_softmax(hidden(teacher, 4) @ teacher.lm_head.weight.T, -1)
        log_p = F.log_softmax(log_probs(teacher, hidden(teacher, 2), norm) / 2, -1)
    final = F.log_softmax(hidden(student, 2) @ student.lm_head.weight.T, -1)
    kd = (target.exp() * (target - final)).sum(-1).mean()
    rows = hidden(student, 1)
    log_q = F.log_softmax(log_probs(student, rows, norm) / 2, -1)
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    parts = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    loss = parts.sum(-1).mean() / 2
    assert pull.loss == pytest.approx(loss.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, rows, retain_graph=True)
    along = (gradient * rows).sum(-1) / rows.norm(dim=-1)
    share = (along.square().sum() / gradient.square().sum()).item()
    assert pull.radial == pytest.approx(share, rel=1e-4, abs=1e-6)
    for found, own, reference in zip(
        (pull.unembedding, pull.others),
        named_gradients(student, loss),
        named_gradients(student, kd),
        strict=True,
    ):
        assert found is not None
        assert found[0] == pytest.approx((own.norm() / reference.norm()).item(), rel=1e-4)
        cosine = (own @ reference / own.norm() / reference.norm()).item()
        assert found[1] == pytest.approx(cosine, rel=1e-4, abs=1e-5)


def test_the_radial_share_is_one_along_the_rows_and_none_across_them():
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    across = torch.tensor([[-4.0, 3.0], [1.0, 0.0]])
    assert radial_share(rows * -2, rows) == pytest.approx(1)
    assert radial_share(across, rows) == pytest.approx(0)
    assert radial_share(rows + across, rows) == pytest.approx(29 / (29 + 26))
    assert radial_share(torch.zeros(2, 2), rows) == 0


def test_frozen_parameters_are_not_compared(models):
    teacher, student = models
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.dim() == 1)
    pulls = Pulls(
        Streams(student, batches(), [1]),
        Streams(teacher, batches(), [2]),
        make_divergence("jsd"),
        1.0,
    )
    student.requires_grad_(True)
    pull = pulls.of((1, 2), "final")
    assert pull.unembedding is None
    assert pull.others is not None


def test_equal_models_leave_nothing_to_compare_with(models):
    """Forward KL between equal logits has no gradient: no ratio of norms, rather than infinity."""
    teacher, _ = models
    pulls = Pulls(
        Streams(teacher, batches(), [1]), Streams(teacher, batches(), [2]), ForwardKL(), 1.0
    )
    pull = pulls.of((1, 2), "final")
    assert (pull.unembedding, pull.others) == (None, None)
    assert pull.loss > 0
