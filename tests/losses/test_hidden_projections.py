"""Maps of hidden-state terms: built by the seed, trained by the optimizer, equal over ranks."""

import os
import subprocess
import sys

import pytest
import torch
from boxes import Rows, build_box
from hidden_box import LAYERS, box_recipe
from tiny_run import REPO

from distillens_plugin.losses.hidden import HiddenCosine, HiddenMSE
from distillens_plugin.losses.trained_parameters import adopt, loss_parameters
from eval_harness.errors import DistillensError


def test_projections_join_the_optimizer_once_and_are_trained(tmp_path):
    box = build_box(box_recipe(tmp_path))
    assert loss_parameters(box.criterion) == {}
    box.pre_epoch_process(epoch=0)
    parameters = loss_parameters(box.criterion)
    assert {name: tuple(p.shape) for name, p in parameters.items()} == {
        "hidden.projections.0.weight": (48, 32),
        "hidden.projections.0.bias": (48,),
        "hidden.projections.1.weight": (48, 32),
        "hidden.projections.1.bias": (48,),
    }
    adopt(box)
    held = [p for group in box.optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    decayed, _ = box.optimizer.param_groups
    ids = {id(p) for p in decayed["params"]}
    assert {id(p) in ids for n, p in parameters.items() if n.endswith("weight")} == {True}
    assert {id(p) in ids for n, p in parameters.items() if n.endswith("bias")} == {False}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for batch, targets in box.train_data_loader:
        box.post_forward_process(loss=box.forward_process(batch, targets))
    assert all(not p.equal(before[name]) for name, p in parameters.items())
    # The schedule reaches them: they are in the student's own groups.
    assert {group["lr"] for group in box.optimizer.param_groups} == {5e-3}


def test_projections_depend_on_the_seed_alone(tmp_path):
    def weights(seed):
        torch.manual_seed(torch.seed() % 1000)
        box = build_box(box_recipe(tmp_path, seed=seed))
        box.pre_epoch_process(epoch=0)
        return loss_parameters(box.criterion)["hidden.projections.1.weight"]

    assert weights(3).equal(weights(3))
    assert not weights(3).equal(weights(4))


def test_one_shared_projection_or_none(tmp_path):
    box = build_box(box_recipe(tmp_path, projection="shared"))
    box.pre_epoch_process(epoch=0)
    assert len(loss_parameters(box.criterion)) == 2
    box = build_box(box_recipe(tmp_path, projection="none"))
    with pytest.raises(DistillensError, match=r"student has width 32 and the teacher 48; set per_"):
        box.pre_epoch_process(epoch=0)
    with pytest.raises(DistillensError, match="expected per_pair, shared or none"):
        HiddenCosine(LAYERS, projection="each")


def test_a_box_without_our_pre_epoch_process_is_told_what_to_set(tmp_path):
    recipe = box_recipe(tmp_path)
    del recipe["train"]["pre_epoch_process"]
    box = build_box(recipe)
    batch, targets = next(iter(box.train_data_loader))
    with pytest.raises(DistillensError, match=r"set pre_epoch_process: distillens\.pre_epoch"):
        box.forward_process(batch, targets)


def test_layers_by_module_path_are_projected_from_their_own_width(tmp_path):
    recipe = box_recipe(
        tmp_path, layers={"student": ["transformer.h.0.mlp.c_fc"], "teacher": ["transformer.h.1"]}
    )
    recipe["train"]["student"]["forward_hook"]["output"] = ["transformer.h.0.mlp.c_fc"]
    box = build_box(recipe)
    box.pre_epoch_process(epoch=0)
    assert box.criterion.term_dict["hidden"][0].projections[0].weight.shape == (48, 4 * 32)
    batch, targets = next(iter(box.train_data_loader))
    assert box.forward_process(batch, targets).item() > 0


def test_two_ranks_have_the_mean_gradient_and_stay_equal(tmp_path):
    recipe = box_recipe(tmp_path)
    script = str(REPO / "tests" / "scripts" / "ddp_projections.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, script, str(tmp_path / "box.yaml"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert ranks[0]["row_ids"] != ranks[1]["row_ids"]
    alone: list[dict[str, torch.Tensor]] = []
    for rank in ranks:
        rows = Rows()
        rows.examples = [e for e in rows.examples if e["id"] in rank["row_ids"]]
        box = build_box(recipe, dataset=rows)
        box.pre_epoch_process(epoch=0)
        batch, targets = next(iter(box.train_data_loader))
        box.forward_process(batch, targets).backward()
        parameters = loss_parameters(box.criterion).items()
        alone.append({n: p.grad for n, p in parameters if p.grad is not None})
    for name, mean in ranks[0]["gradients"].items():
        assert mean.equal(ranks[1]["gradients"][name]), name
        expected = (alone[0][name] + alone[1][name]) / 2
        assert (mean - expected).abs().max() <= 1e-5 * expected.abs().max(), name
        assert not alone[0][name].allclose(alone[1][name])
    # After the steps of a whole epoch, maps and student are still the same on both ranks.
    for name, value in ranks[0]["after"].items():
        assert value.equal(ranks[1]["after"][name]), name


def test_mse_is_learnt_by_the_student_and_not_by_the_map_alone(tmp_path):
    """Gradient reaches the student's blocks through the projection."""
    box = build_box(box_recipe(tmp_path))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    box.forward_process(batch, targets).backward()
    for block in box.student_model.transformer.h:
        assert block.attn.c_attn.weight.grad.abs().max() > 0
    assert isinstance(box.criterion.term_dict["hidden"][0], HiddenMSE)
