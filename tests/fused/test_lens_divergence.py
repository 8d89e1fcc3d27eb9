"""`lens_divergence`: which divergences read its beta."""

import pytest
import torch

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import lens_divergence


def inputs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((6, 5), (20, 5), (6, 7), (20, 7))]


@pytest.mark.parametrize("name", ["jsd", "fkl_jsd", "alpha_beta"])
@pytest.mark.parametrize("call", [lens_divergence, lens_divergence.naive])
def test_beta_reaches_the_divergence_that_has_one(name, call):
    for beta in (None, 0.9):
        expected = call(*inputs(), divergence=make_divergence(name, beta=beta))
        assert call(*inputs(), divergence=name, beta=beta).equal(expected)
    assert not call(*inputs(), divergence=name, beta=0.9).equal(call(*inputs(), divergence=name))


def test_a_beta_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"^beta = 0.3 is not a parameter of fkl, only of jsd, al"):
        lens_divergence(*inputs(), divergence="fkl", beta=0.3)
    with pytest.raises(ValueError, match=r"^beta = 0.3 beside the object 'jsd', which has its"):
        lens_divergence(*inputs(), divergence=make_divergence("jsd"), beta=0.3)
    with pytest.raises(ValueError, match=r"^divergence = 'jds', expected one of"):
        lens_divergence(*inputs(), divergence="jds", beta=0.3)
