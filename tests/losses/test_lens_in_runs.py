"""The lens by the teacher's readout in a torchdistill box, with a teacher cache, and in a plan."""

import pytest
import torch
from boxes import build_box
from hidden_box import box_recipe
from tiny_run import tiny_recipe

from distillens_plugin.cli import main
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.losses.trained_parameters import loss_parameters
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache import attach_teacher_cache, needs_readout_alone
from eval_harness.errors import DistillensError

LENS = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"


def two_terms(folder, criterion="WeightedSumLoss", **options):
    """hidden_mse, and a lens that reads the student through its maps."""
    recipe = box_recipe(folder, criterion=criterion)
    layers = {"student": [1, 2], "teacher": [2, 4]}
    kwargs = {"layers": layers, "readout": "teacher", "norm": "final", **options}
    lens = {"criterion": {"key": "DistillLensLoss", "kwargs": kwargs}, "weight": 2.0}
    recipe["train"]["criterion"]["kwargs"]["sub_terms"]["lens"] = lens
    return recipe


def gradients_of(box):
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    loss.backward()
    parameters = {**dict(box.student_model.named_parameters()), **loss_parameters(box.criterion)}
    return loss.detach(), {name: p.grad for name, p in parameters.items()}


def test_both_sums_link_the_maps_and_train_them_once(tmp_path):
    found = {}
    for criterion in ("WeightedSumLoss", "distillens.weighted_sum"):
        box = build_box(two_terms(tmp_path, criterion, projection_of="hidden"))
        found[criterion] = gradients_of(box)
        names = loss_parameters(box.criterion)
        assert all(name.startswith("hidden.projections.") for name in names)
        held = [p for group in box.optimizer.param_groups for p in group["params"]]
        assert len(held) == len({id(p) for p in held})
        assert {id(p) for p in names.values()} <= {id(p) for p in held}
        assert not any(p.grad is not None for p in box.teacher_model.parameters())
    (loss, plain), (other, summed) = found.values()
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(plain, summed, rtol=1e-4, atol=1e-6)
    alone = gradients_of(build_box(two_terms(tmp_path, projection_of="hidden", norm="identity")))
    name = "hidden.projections.0.weight"
    assert not alone[1][name].allclose(plain[name])


def test_maps_of_its_own_are_trained_in_a_plain_box(tmp_path):
    box = build_box(two_terms(tmp_path))
    _, gradients = gradients_of(box)
    own = [name for name in gradients if name.startswith("lens.projections.")]
    assert len(own) == 4
    assert all(gradients[name].any() for name in own)


def test_a_box_without_our_pre_epoch_process_is_told_what_to_set(tmp_path):
    recipe = two_terms(tmp_path)
    del recipe["train"]["pre_epoch_process"]
    del recipe["train"]["criterion"]["kwargs"]["sub_terms"]["hidden"]
    box = build_box(recipe)
    with pytest.raises(DistillensError, match=r"DistillLensLoss: .* set pre_epoch_process"):
        box.forward_process(*next(iter(box.train_data_loader)))


def test_a_full_cache_and_a_teacher_without_blocks_serve_it(tmp_path):
    settings = {"readout": "teacher", "norm": "final", "min_teacher_entropy": "0.5"}
    changes = [f"{LENS}.{key}={value}" for key, value in settings.items()]
    changes += [
        f"{LENS}.weigh_by=teacher_entropy",
        f"teacher_cache={{path: {tmp_path / 'cache'}}}",
        "train.train_data_loader.sampler={class_or_func: "
        "!import_get {key: torch.utils.data.SequentialSampler}}",
    ]
    recipe = load_recipe(tiny_recipe(tmp_path), ["datasets.validation=null", *changes])
    accelerator, data = make_accelerator(recipe, None), load_data(recipe)
    losses, weights = {}, None
    for states_only in (False, True):
        if states_only:
            assert needs_readout_alone(recipe, data[1])
        experiment = build_experiment(recipe, accelerator, data, states_only=states_only)
        weights = weights or experiment.student.state_dict()
        experiment.student.load_state_dict(weights)
        experiment.student.eval()
        cache = attach_teacher_cache(experiment)
        box = experiment.box
        box.pre_epoch_process(epoch=0)
        losses[states_only] = [
            box.forward_process(batch, targets).item() for batch, targets in box.train_data_loader
        ]
        cache.end_epoch()
        cache.close()
    assert losses[True] == losses[False]
    assert all(value > 0 for value in losses[True])


def test_distillens_lens_shows_no_gradient_that_is_not_the_terms(tmp_path, capsys):
    given = ["lens", str(tiny_recipe(tmp_path)), "--rows", "2", "--norm", "final", "--set"]
    assert main([*given, f"{LENS}.readout=teacher", "--output_dir", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    said = "Not shown are the gradients of lens: it reads the student by the teacher's head"
    assert said in printed
    assert "gradients compared with" not in printed
    (page,) = (tmp_path / "page").glob("*.html")
    assert said.partition(":")[0] in page.read_text(encoding="utf-8")


def test_validate_refuses_two_widths_without_a_map(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    given = ["--set", f"{LENS}.readout=teacher", "--set", f"{LENS}.projection=none"]
    assert main(["run", recipe, "--validate", *given]) == 2
    error = capsys.readouterr().err
    assert f"{LENS}.projection: found none, but the student has width 24 and the teacher" in error
    assert "set per_pair or shared" in error
