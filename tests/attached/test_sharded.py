"""Student and teacher in pieces (FSDP2) on two processes give the gradients of one."""

import pytest
import torch
from fsdp_on_cpu import ranks
from pair import assert_close, attached_loss, gradients, pair

from distillens_plugin import AttachedLens

CASES = {
    "accelerate, tied": True,
    "accelerate, untied": False,
    "fully_shard": False,
    "head put away": True,
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Whole gradients by case."""
    out = tmp_path_factory.mktemp("sharded") / "out.pt"
    done = ranks("fsdp_attached.py", out)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks(sharded, case):
    student, teacher = pair(name="llama", tied=CASES[case])
    lens = AttachedLens(student, teacher, {"auto": 2}, norm="final", kd="fkl", cross_entropy=0.5)
    attached_loss(lens, student, teacher, 0, 1).backward()
    expected = gradients(student)
    found = {name: value for name, value in sharded[case].items() if value.any()}
    assert_close(found, expected, 1e-12)


def test_a_lens_comes_before_the_pieces(sharded):
    assert "sharded by FSDP2 before the lens has seen it; make the lens first" in sharded["refusal"]
