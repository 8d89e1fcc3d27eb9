"""Hidden-state terms in runs: normalised by the window, saved, cached, equal over processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import REPO, tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError


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


def test_mse_without_layers_is_refused(tmp_path):
    key = "train.criterion.kwargs.sub_terms.hidden_mse.criterion.kwargs.layers"
    with pytest.raises(DistillensError, match=r"kwargs\.layers: missing; expected the layer pairs"):
        run_recipe(tmp_path, changes=[f"{key}=null"])
    with pytest.raises(DistillensError, match=r"distillens\.hidden_mse compares with a teacher"):
        run_recipe(
            tmp_path,
            changes=["models.teacher_model=null", "train.criterion.kwargs.sub_terms.kd=null"],
        )


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
