"""TRL's trainers with the lens and both models in pieces (FSDP2): as with whole ones under DDP."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

import torch
from fsdp_on_cpu import ranks
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The folder, and what each of two processes learnt, by trainer and way."""
    folder = tmp_path_factory.mktemp("sharded")
    done = ranks("fsdp_trl.py", folder, environment={"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", ["distillation", "gkd"])
def test_losses_and_weights_are_those_of_ddp(learnt, kind):
    folder, (first, second) = learnt
    whole, pieces = first[f"{kind}, DDP"], first[f"{kind}, pieces"]
    assert whole["wrapper"] == "DistributedDataParallel"
    assert pieces["wrapper"].startswith("FSDP")
    for name in ("loss", "lens"):
        assert len(pieces[name]) == 4
        assert pieces[name] == pytest.approx(whole[name], abs=1e-6)
        assert pieces[name] == second[f"{kind}, pieces"][name]
    assert pieces["evaluated"] == pytest.approx(whole["evaluated"], abs=1e-6)
    saved = AutoModelForCausalLM.from_pretrained(folder / kind / "pieces").state_dict()
    for name, value in whole["weights"].items():
        torch.testing.assert_close(pieces["weights"][name], value, rtol=0, atol=1e-8, msg=name)
        torch.testing.assert_close(saved[name], pieces["weights"][name], rtol=0, atol=0, msg=name)


def test_processes_that_throw_other_dice_generate_in_the_same_steps(learnt):
    _, (first, second) = learnt
    assert len(first["dice"]["loss"]) == 4
    assert first["dice"]["loss"] == second["dice"]["loss"]
