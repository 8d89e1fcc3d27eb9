"""The Triton kernel against float64: on a CPU by its interpreter, and on a GPU if there is one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import Group, Head, triton_segment, walk
from distillens_plugin.fused.compiled import compiled_segment
from distillens_plugin.fused.segment import GroupKind, SegmentKind

SCRIPT = Path(__file__).parents[1] / "scripts" / "triton_rows.py"


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
        ),
    ],
)
@pytest.mark.usefixtures("cold_python")  # Triton reads how it is to run as it is imported
def test_kernel_against_float64(device):
    """Formulas, types, heads, absent columns, extremes and the walk; see the script."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, str(SCRIPT), device], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.strip().splitlines()[-1])
    assert len(found) > 50
    assert {case: error for case, error in found.items() if not error <= 1} == {}


@pytest.fixture
def half(monkeypatch):
    """Rows, heads, and a CPU that counts as a device with Triton."""
    pytest.importorskip("triton")
    compiled_segment.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(triton_segment, "DEVICES", ("cpu",))
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator).bfloat16()

    yield normal(6, 8).requires_grad_(), normal(6, 8), Head(normal(51, 8)), Head(normal(51, 8))
    compiled_segment.cache_clear()


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="needs Triton without interpreter")
def test_a_kernel_that_cannot_run_is_replaced_with_one_warning(half, monkeypatch):
    """Without its interpreter, Triton has no CPU."""
    monkeypatch.setattr(triton_segment.State, "failed", False)
    student, teacher, *heads = half
    group = Group("jsd", student, make_divergence("jsd"), teacher)
    with pytest.warns(RuntimeWarning, match="could not run its Triton kernel") as caught:
        found = walk([group], *heads, compile_blocks=True, chunk_rows=2)
    assert len([w for w in caught if "Triton" in str(w.message)]) == 1
    monkeypatch.setattr(triton_segment, "ENABLED", False)
    expected = walk([group], *heads, compile_blocks=True, chunk_rows=2)
    assert found.loss == expected.loss
    gradients = [torch.autograd.grad(result.loss, student)[0] for result in (found, expected)]
    assert torch.equal(*gradients)


def test_what_it_takes(half):
    products = torch.zeros(2, 64, dtype=torch.bfloat16)
    jsd = GroupKind(make_divergence("jsd"), 1.0, 0)
    kind = SegmentKind((jsd,), (1.0, None), (1.0, None), 51, torch.float32, False, True)

    def takes(products=products, teacher=products, bias=None, **changes):
        changed = replace(kind, **changes)
        return triton_segment.takes(changed, products, [teacher], bias, None, None)

    assert takes()
    assert not takes(products=products.float())
    assert not takes(teacher=products.float())
    assert not takes(bias=products[0])
    assert not takes(entropies=True)
    assert not takes(dtype=torch.float64)
    assert not takes(groups=(jsd, jsd))
    assert not takes(groups=(GroupKind(make_divergence("jeffreys"), 1.0, 0),))
    assert not takes(products=products.t())
