"""The fused walk where no gradient is kept."""

import pytest
import torch
from torch import Tensor
from walk_problem import Problem

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import walk


class MeanSquare:
    """A divergence of a user's own: only a name and a differentiable call."""

    name = "mean_square"

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return (student_logits.softmax(-1) - teacher_logits.softmax(-1)).square().mean(-1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("whole_chunks", [False, True])
def test_values_are_those_of_training(mode, whole_chunks, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    problem = Problem()
    groups = [problem.group(d) for d in (MeanSquare(), make_divergence("jsd"))]
    groups.append(problem.cross_entropy(temperature=2.0))
    for chosen in (groups[:1], groups):
        options = {"entropies": True, "compile_blocks": whole_chunks, "chunk_rows": 4}
        expected = walk(chosen, *problem.heads(softcap=3.0), **options)
        with mode():
            found = walk(chosen, *problem.heads(softcap=3.0), **options)
        assert not found.loss.requires_grad
        torch.testing.assert_close(found.loss, expected.loss.detach())
        torch.testing.assert_close(found.values, expected.values)
        torch.testing.assert_close(found.entropies, expected.entropies)


def test_a_divergence_of_ones_own_is_not_differentiated_for_nothing():
    graphs = []

    class Watched(MeanSquare):
        def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
            graphs.append(torch.is_grad_enabled())
            return super().__call__(teacher_logits, student_logits)

    problem = Problem()
    with torch.no_grad():
        walk([problem.group(Watched())], *problem.heads())
    assert set(graphs) == {False}
