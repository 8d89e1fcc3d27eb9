"""Hidden-state MSE in the metric of the teacher's unembedding: float64 formulas and limits."""

import pytest
import torch
from boxes import build_box
from hidden_box import LAYERS, box_recipe, rows_of
from pair import batch, pair, run_both

from distillens_plugin import AttachedLens
from distillens_plugin.losses.hidden import HiddenMSE
from distillens_plugin.losses.unembedding_metric import unembedding_metric
from eval_harness.errors import DistillensError


def seen64(error, unembedding):
    """The variance over the vocabulary of what the error does to the logits, of trace 1."""
    logits = error @ unembedding.T
    spread = (logits - logits.mean(1, keepdim=True)).pow(2).mean(1)
    return spread.mean() / (unembedding - unembedding.mean(0)).pow(2).mean(0).sum()


def unseen64(error, unembedding):
    """Along the eigenvectors of the unembedding's covariance, each over its eigenvalue."""
    values, vectors = torch.linalg.eigh(torch.cov(unembedding.T, correction=0))
    weights = 1 / (values + values.mean() / 100)
    return ((error @ vectors).pow(2) * weights / weights.sum()).sum(1).mean()


@pytest.mark.parametrize("criterion", ["WeightedSumLoss", "distillens.weighted_sum"])
@pytest.mark.parametrize(
    ("metric", "formula"), [("unembedding", seen64), ("inverse_unembedding", unseen64)]
)
def test_an_error_in_the_unembeddings_metric_is_the_float64_formula(
    tmp_path, metric, formula, criterion
):
    box = build_box(box_recipe(tmp_path, criterion=criterion, metric=metric))
    box.pre_epoch_process(epoch=0)
    head = box.teacher_model.get_output_embeddings().weight
    with torch.no_grad():  # far from the identity, and not centred
        head.mul_(torch.linspace(0.1, 3, head.shape[1])).add_(0.5)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    module = box.criterion.term_dict["hidden"][0]
    expected = torch.zeros((), dtype=torch.float64)
    for index, (x, y) in enumerate(rows_of(box, batch, targets)):
        layer = module.projections[index]
        error = x @ layer.weight.double().T + layer.bias.double() - y
        expected += formula(error, head.detach().double()) / 2
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-4)
    loss.backward()
    assert head.grad is None
    assert box.student_model.transformer.h[0].mlp.c_fc.weight.grad.any()


def test_the_metric_of_an_isotropic_unembedding_is_the_mean_squared_error():
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    symmetric = torch.cat([basis, -basis])
    for inverse in (False, True):
        metric = unembedding_metric(symmetric, inverse=inverse)
        torch.testing.assert_close(metric, torch.eye(8) / 8)


def test_a_direction_that_no_token_uses_counts_a_hundred_times_at_most():
    """Without a limit a flat direction would make the inverse infinite."""
    weight = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    weight[:, 3] = 1.0
    metric = unembedding_metric(weight, inverse=True)
    assert 50 < metric[3, 3] / metric.diagonal()[:3].mean() < 200
    assert metric.trace().item() == pytest.approx(1)


def test_another_metric_and_states_that_the_unembedding_does_not_read_are_refused(tmp_path):
    with pytest.raises(DistillensError, match="metric = 'unseen', expected identity"):
        HiddenMSE(LAYERS, metric="unseen")
    term = HiddenMSE(LAYERS, metric="unembedding", projection="none")
    term.build([(3, 3), (3, 3)], torch.device("cpu"))
    with pytest.raises(DistillensError, match="without its matrices, which prepare"):
        term.compare(0, torch.ones(2, 3), torch.ones(2, 3))
    term._metrics = [torch.eye(4) / 4] * 2
    with pytest.raises(DistillensError, match="width 3, but its matrix is for 4"):
        term.compare(0, torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("metric", ["unembedding", "inverse_unembedding"])
def test_a_validation_in_inference_mode_may_come_before_training(metric):
    """Lightning's sanity check does so; autograd saves no tensor that inference mode made."""
    student, teacher = pair()
    ids, labels = batch()
    term = HiddenMSE(LAYERS, metric=metric)
    with AttachedLens(student, teacher, terms={"mse": (term, 1.0)}) as lens:
        with torch.inference_mode():
            run_both(student, teacher, ids)
            validated = lens.loss(labels)
        run_both(student, teacher, ids)
        loss = lens.loss(labels)
        loss.backward()
    assert loss.item() == pytest.approx(validated.item())
    assert student.model.layers[0].mlp.up_proj.weight.grad.any()


def test_a_matrix_that_is_moved_in_inference_mode_can_train():
    term = HiddenMSE(LAYERS, metric="unembedding", projection="none")
    term.build([(3, 3), (3, 3)], torch.device("cpu"))
    term._metrics = [torch.eye(3) / 3] * 2
    with torch.inference_mode():
        term.compare(0, torch.ones(2, 3, device="meta"), torch.ones(2, 3, device="meta"))
    assert term._metrics[0].is_meta
    assert not term._metrics[0].is_inference()
