"""Whole runs whose lens reads the student by the teacher's readout: each way gives the same."""

import json
import shutil

import pytest
import torch
from forked_run import forked, kill_after_states, quick_recipe, what_it_left
from lens_readout import attached, batch, models, value_of
from readout_recipes import LAYERS, LENS, TERMS, maps_of, readout_recipe
from run_process import change, records
from safetensors.torch import load_file

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.losses.trained_parameters import loss_parameters
from distillens_plugin.recipe.loading import load_recipe

KINDS = ("own", "shared")


def ran(path, output, *flags, **keywords):
    done = forked(path, *flags, output=output, **keywords)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def losses(folder):
    """The sum and each term's values, of every record and validation."""
    return [
        {
            name: value
            for name, value in record.items()
            if "loss" in name or name.startswith(("kd", "lens", "mse", "val/"))
        }
        for record in records(folder)
    ]


def weights(folder):
    return load_file(folder / "last" / "model.safetensors") | maps_of(folder / "last")


@pytest.fixture(scope="module", params=KINDS)
def plain(request, tmp_path_factory):
    """A recipe and its run in float32."""
    folder = tmp_path_factory.mktemp(request.param)
    path = readout_recipe(folder, request.param)
    return path, ran(path, folder / "out")


def test_its_maps_are_trained_and_saved(plain):
    path, out = plain
    still = ran(path, out.parent / "still", "--set", "train.optimizer.kwargs.lr=1e-12")
    first = maps_of(still / "last")
    last = maps_of(out / "last")
    assert len(last) == 4
    assert last.keys() == first.keys()
    for name, value in last.items():
        assert (value - first[name]).abs().max() > 1e-4, name


def test_gradient_checkpointing_changes_nothing(plain):
    path, out = plain
    flags = ("--set", "models.student_model.gradient_checkpointing=true")
    found = ran(path, out.parent / "checkpointing", *flags)
    for ours, theirs in zip(losses(found), losses(out), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    torch.testing.assert_close(weights(found), weights(out), rtol=1e-6, atol=1e-7)


def test_bfloat16_is_near_float32(plain):
    path, out = plain
    found = ran(path, out.parent / "bf16", "--set", "mixed_precision=bf16")
    assert losses(found) != losses(out)
    for ours, theirs in zip(losses(found), losses(out), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)
    assert all(value.dtype == torch.float32 for value in maps_of(found / "last").values())


def test_a_teacher_cache_serves_it(plain):
    """A run that fills it, one with the whole teacher, one with the teacher's readout alone."""
    path, out = plain
    cache = f"teacher_cache={{path: {out.parent / 'cache'}}}"
    flags = ("--set", cache, "--set", "validation_terms=false")
    found = [
        ran(path, out.parent / name, *flags, "--set", f"teacher_cache.teacher={teacher}")
        for name, teacher in (("fills", "whole"), ("full", "whole"), ("readout", "states_only"))
    ]
    for folder in found[1:]:
        assert losses(folder) == losses(found[0])
    assert losses(found[0]) != losses(out)
    # The states were rounded to bfloat16, all of them.
    for ours, theirs in zip(losses(found[0]), losses(out), strict=True):
        assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=0.01)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("save_every", [None, 1])
def test_a_killed_run_ends_with_the_very_weights_and_maps(tmp_path, own, save_every):
    """With dropout and drawn positions, between two epochs and within the second."""
    path = quick_recipe(tmp_path)
    lens = {"layers": LAYERS, "norm": "final", "readout": "teacher", "positions": 0.25}
    if not own:
        lens["projection_of"] = "mse"
        criterion = {"key": "distillens.hidden_mse", "kwargs": {"layers": LAYERS}}
        change(path, f"{TERMS}.mse", {"criterion": criterion, "weight": 0.5})
    change(path, LENS, lens)
    change(path, "train.save_every", save_every)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    whole = what_it_left(ran(path, **place))
    assert any(name.endswith("loss/parameters.safetensors") for name in whole)
    shutil.rmtree(tmp_path / "out")
    ended = forked(path, **place, before=kill_after_states(1 if save_every is None else 3))
    assert ended.returncode == -9, ended.stderr
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    said = "resuming after epoch 1" if save_every is None else "resuming within epoch 2"
    assert said in done.stdout
    assert what_it_left(tmp_path / "out") == whole


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_an_automatic_weight_is_that_of_its_gradient_through_the_maps(tmp_path, kind):
    path = readout_recipe(tmp_path, kind, windows=1)
    changes = (f"{TERMS}.lens.weight=auto", "train.num_epochs=null", "train.num_steps=3")
    out = ran(path, tmp_path / "out", *(part for each in changes for part in ("--set", each)))
    weight = json.loads((out / "summary.json").read_text(encoding="utf-8"))["weights"]["lens"]
    assert weight == pytest.approx(gradient_at_the_lens(path, "kd") / gradient_at_the_lens(path))
    used = [record["weight/lens"] for record in records(out) if "weight/lens" in record]
    assert used == [pytest.approx(weight)] * 3


def gradient_at_the_lens(path, name="lens"):
    """|gradient| of one term of weight 1 in the first batch, at the block below layer 2."""
    recipe = load_recipe(path)
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    box = experiment.box
    box.pre_epoch_process(epoch=0)
    terms = box.criterion.term_dict
    for each, (term, _) in list(terms.items()):
        terms[each] = (term, float(each == name))
    batch, targets = next(iter(box.train_data_loader))
    box.forward_process(batch, targets).backward()
    used = [p.grad for p in loss_parameters(box.criterion).values() if p.grad is not None]
    assert any(gradient.any() for gradient in used) is (name == "lens")
    squares = [p.grad.square().sum() for p in experiment.student.transformer.h[1].parameters()]
    return torch.stack(squares).sum().sqrt().item()


def test_a_compiled_student_gets_the_same_gradients():
    ids, labels = batch()
    found = []
    for compiled in (False, True):
        own, other = models()
        student = torch.compile(own, backend="eager") if compiled else own
        lens = attached(student, other, norm="final")
        loss = value_of(lens, student, other, ids, labels)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in own.named_parameters()}
        gradients |= {name: p.grad.clone() for name, p in lens.trained_parameters().items()}
        found.append((loss.detach(), gradients))
    assert found[0][1]["lens.projections.1.weight"].any()
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)
