"""Hidden-state terms: float64 formulas, projections that train, are saved and agree over ranks."""

import json
import os
import subprocess
import sys

import pytest
import torch
from boxes import Rows, build_box
from hidden_box import LAYERS, box_recipe, rows_of
from safetensors.torch import load_file
from tiny_run import REPO, tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.losses.hidden import HiddenCosine, HiddenMSE
from distillens_plugin.losses.similarity import CKA, GramAlignment, inner
from distillens_plugin.losses.trained_parameters import adopt, loss_parameters
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError


def mse64(x, y):
    return ((x - y) ** 2).sum() / x.numel()


def cosine64(x, y):
    dots = (x * y).sum(1) / (x.pow(2).sum(1).sqrt() * y.pow(2).sum(1).sqrt())
    return (1 - dots).sum() / len(x)


def gram64(x, y):
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            left = x[i] @ x[j] / (x[i].norm() * x[j].norm())
            right = y[i] @ y[j] / (y[i].norm() * y[j].norm())
            total += (left - right) ** 2
    return total / len(x) ** 2


def cka64(x, y):
    """Through the centring matrix and HSIC: tr(K H L H)."""
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    left, right = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return 1 - (left * right).sum() / ((left**2).sum() * (right**2).sum()).sqrt()


@pytest.mark.parametrize("criterion", ["WeightedSumLoss", "distillens.weighted_sum"])
@pytest.mark.parametrize(
    ("term", "formula"),
    [
        ("distillens.hidden_mse", mse64),
        ("distillens.hidden_cosine", cosine64),
        ("distillens.gram", gram64),
        ("distillens.cka", cka64),
    ],
)
def test_a_term_in_a_plain_box_is_the_float64_formula(tmp_path, term, formula, criterion):
    box = build_box(box_recipe(tmp_path, term, criterion))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    module = box.criterion.term_dict["hidden"][0]
    expected = torch.zeros((), dtype=torch.float64)
    for index, (x, y) in enumerate(rows_of(box, batch, targets)):
        if hasattr(module, "projections"):
            layer = module.projections[index]
            x = x @ layer.weight.double().T + layer.bias.double()
        expected += formula(x, y) / 2
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert set(module.last_values) == {f"{module.default_name}/1-2", f"{module.default_name}/2-4"}
    loss.backward()
    # What no layer of the term reaches still has a gradient, as DDP needs it: zeros.
    assert all(p.grad is not None for p in box.student_model.parameters())
    assert box.student_model.transformer.h[0].mlp.c_fc.weight.grad.any()


@pytest.mark.parametrize("make", [GramAlignment, CKA])
def test_no_geometry_differs_after_rotation_scaling_and_between_equal_models(make):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    term = make({"auto": 1})
    assert term.compare(0, x, 3 * x @ rotation).item() == pytest.approx(0, abs=1e-5)
    other = torch.randn(40, 12, generator=generator)
    assert term.compare(0, x, other) > 0.01


@pytest.mark.parametrize("make", [GramAlignment, CKA])
@pytest.mark.parametrize("num_rows", [5, 30])
def test_gradients_are_those_of_finite_differences(make, num_rows):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(num_rows, 9, generator=generator, dtype=torch.float64)
    term = make({"auto": 1})
    # CKA's scaling is detached: a true gradient only if the scale really drops out.
    assert torch.autograd.gradcheck(lambda rows: term.compare(0, rows, y), (x,))


def test_both_ways_of_summing_products_of_gram_matrices_agree():
    x, y = torch.randn(7, 5).double(), torch.randn(7, 20).double()
    direct = ((x @ x.T) * (y @ y.T)).sum()
    assert inner(x, y).item() == pytest.approx(direct.item())
    assert inner(x[:2], y[:2]).item() == pytest.approx((x[:2].T @ y[:2]).square().sum().item())


def test_a_single_position_and_equal_positions_have_no_geometry():
    for rows in (1, 4):
        x = torch.ones(rows, 3).requires_grad_()
        value = CKA({"auto": 1}).compare(0, x, torch.randn(rows, 5))
        assert value.item() == 0
        value.backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("term", ["distillens.hidden_mse", "distillens.cka"])
def test_an_all_masked_batch_gives_zero_with_a_graph(tmp_path, term):
    box = build_box(box_recipe(tmp_path, term))
    box.pre_epoch_process(epoch=0)
    batch, _ = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, torch.full_like(batch["input_ids"], -100))
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in box.student_model.parameters())


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


def test_pair_weights_weigh(tmp_path):
    box = build_box(box_recipe(tmp_path, pair_weights=[1, 3]))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    first, second = box.criterion.term_dict["hidden"][0].last_values.values()
    assert loss.item() == pytest.approx(0.5 * (0.25 * first + 0.75 * second).item())
    wrong = build_box(box_recipe(tmp_path, pair_weights=[1]))
    wrong.pre_epoch_process(epoch=0)
    with pytest.raises(DistillensError, match=r"pair_weights = \[1\], expected 2"):
        wrong.forward_process(batch, targets)


def run_recipe(folder, method="hidden_mse", changes=()):
    return load_recipe(
        tiny_recipe(folder),
        ["datasets.validation=null", *changes],
        fragments=[REPO / "recipes" / "methods" / f"{method}.yaml"],
    )


def test_the_runner_normalises_by_the_supervised_tokens_of_the_window(tmp_path):
    results = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        recipe = run_recipe(
            tmp_path,
            changes=[
                f"train.train_data_loader.kwargs.batch_size={batch_size}",
                f"train.optimizer.grad_accum_step={accumulate}",
                "train.train_data_loader.sampler={class_or_func: "
                "!import_get {key: torch.utils.data.SequentialSampler}}",
                "models.student_model.init.config={model_type: gpt2, n_layer: 4, n_embd: 24, "
                "n_head: 2, n_positions: 256, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}",
            ],
        )
        accelerator = make_accelerator(recipe, None)
        box = build_experiment(recipe, accelerator, load_data(recipe)).box
        box.pre_epoch_process(epoch=0)
        window = next(windows(box.train_data_loader, accumulate, accelerator))
        results.append(Trainer(box, accelerator).step(window))
    whole, halves = results
    assert whole.values["hidden_mse"] == pytest.approx(halves.values["hidden_mse"], rel=1e-5)
    assert whole.values["hidden_mse/1-1"] == pytest.approx(halves.values["hidden_mse/1-1"])
    assert whole.grad_norm == pytest.approx(halves.grad_norm, rel=1e-4)


def test_a_run_saves_what_the_loss_trained(tmp_path):
    path = tiny_recipe(tmp_path)
    command = [sys.executable, "-m", "distillens_plugin.run", str(path), "--output_dir"]
    command += [str(tmp_path / "out"), "--with", "recipes/methods/hidden_mse.yaml"]
    command += ["--set", "train.criterion.kwargs.sub_terms.hidden_mse.criterion.kwargs.layers="]
    command[-1] += "{student: [1], teacher: [2]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPO, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "hidden_mse: layer pairs 1-2 (student-teacher), weight 1.0" in done.stdout
    for name in ("best", "last"):
        folder = tmp_path / "out" / name
        saved = load_file(folder / "loss" / "parameters.safetensors")
        assert saved["hidden_mse.projections.0.weight"].shape == (32, 24)
        assert {f.name for f in folder.glob("*.safetensors")} == {"model.safetensors"}
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if "hidden_mse" in line]
    assert steps[-1]["hidden_mse"] < steps[0]["hidden_mse"]
    assert "hidden_mse/1-2" in steps[0]


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


def test_mse_without_layers_is_refused(tmp_path):
    key = "train.criterion.kwargs.sub_terms.hidden_mse.criterion.kwargs.layers"
    with pytest.raises(DistillensError, match=r"kwargs\.layers: missing; expected the layer pairs"):
        run_recipe(tmp_path, changes=[f"{key}=null"])
    with pytest.raises(DistillensError, match=r"distillens\.hidden_mse compares with a teacher"):
        run_recipe(
            tmp_path,
            changes=["models.teacher_model=null", "train.criterion.kwargs.sub_terms.kd=null"],
        )


def test_mse_is_learnt_by_the_student_and_not_by_the_map_alone(tmp_path):
    """Gradient reaches the student's blocks through the projection."""
    box = build_box(box_recipe(tmp_path))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    box.forward_process(batch, targets).backward()
    for block in box.student_model.transformer.h:
        assert block.attn.c_attn.weight.grad.abs().max() > 0
    assert isinstance(box.criterion.term_dict["hidden"][0], HiddenMSE)


def test_the_teacher_cache_serves_hidden_states_too(tmp_path):
    from distillens_plugin.teacher_cache import attach_teacher_cache

    recipe = run_recipe(
        tmp_path,
        changes=[
            "models.student_model.init.config.n_layer=4",
            f"teacher_cache={{path: {tmp_path / 'cache'}}}",
        ],
    )
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    experiment.student.eval()
    box = experiment.box
    batch, targets = next(iter(box.train_data_loader))
    plain = box.forward_process(batch, targets).item()
    attach_teacher_cache(experiment)
    computed = box.forward_process(batch, targets).item()
    read = box.forward_process(batch, targets).item()
    assert box.teacher_forward_proc.num_teacher_batches == 1
    assert computed == read
    assert read == pytest.approx(plain, rel=2e-2)  # bfloat16 on disk


def test_two_processes_of_the_runner_give_the_gradients_of_one(tmp_path):
    """Tokens are counted over the window and all ranks, for the projections too."""
    folders = {1: (8, "whole.pt"), 2: (4, "halves.pt")}
    results = []
    for processes, (batch_size, name) in folders.items():
        tiny_recipe(tmp_path)
        text = f"""\
base: [recipe.yaml, {REPO / "recipes" / "methods" / "hidden_mse.yaml"}]
models:
  student_model:
    init: {{config: {{n_layer: 4, resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}}}}
datasets: {{validation: null}}
train:
  train_data_loader:
    sampler: {{class_or_func: !import_get {{key: torch.utils.data.SequentialSampler}}}}
    kwargs: {{batch_size: {batch_size}}}
  optimizer: {{max_grad_norm: null}}
"""
        (tmp_path / "two.yaml").write_text(text, encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        script = str(REPO / "tests" / "scripts" / "first_gradients.py")
        paths = [str(tmp_path / "two.yaml"), str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, *launcher[: 4 * (processes - 1)], script, *paths],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(tmp_path / name, weights_only=True))
    whole, halves = results
    assert halves["num_rows"] == 4
    assert halves["values"] == pytest.approx(whole["values"], rel=1e-5)
    assert len(whole["loss_gradients"]) == 6
    for kind in ("gradients", "loss_gradients"):
        for name, gradient in whole[kind].items():
            scale = gradient.abs().max().clamp_min(1e-6)
            assert (halves[kind][name] - gradient).abs().max() < 1e-4 * scale, name
