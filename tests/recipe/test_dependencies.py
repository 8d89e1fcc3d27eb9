"""A user's own module adds to the tables, and only a trusted recipe imports it; unknown names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_text import DISTILLATION, write_recipe
from run_process import ENVIRONMENT, change, records
from tiny_run import REPO, tiny_recipe

from distillens_plugin.divergences import (
    Parameter,
    Range,
    divergence_names,
    make_divergence,
    register_divergence,
    table,
)
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

TERMS = "train.criterion.kwargs.sub_terms"
MODULE = """
import torch
from torchdistill.losses.registry import register_mid_level_loss
from torchdistill.optim.registry import register_optimizer

from distillens_plugin.divergences import Parameter, Range, register_divergence


class Power:
    name = "their_power"

    def __init__(self, margin):
        self.margin = margin

    def __call__(self, teacher_logits, student_logits):
        gap = teacher_logits.softmax(-1) - student_logits.softmax(-1)
        return gap.abs().pow(self.margin).sum(-1)


register_divergence("their_power", Power, parameters={"margin": Parameter(2.0, Range(1, 3))})


@register_mid_level_loss(key="their.norm")
class Norm(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, student_io_dict, teacher_io_dict, targets, *args, **kwargs):
        return self.factor * student_io_dict["."]["output"].last_hidden.square().mean()


@register_optimizer(key="their_sgd")
def their_sgd(params, lr):
    return torch.optim.SGD(params, lr=lr)
"""


def run(*arguments, folder):
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{folder}{os.pathsep}{REPO}"}
    command = [sys.executable, "-m", "distillens_plugin.run", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder
    )


@pytest.fixture
def recipe(tmp_path):
    """A recipe that trains with a divergence, a loss term and an optimizer of the user's module."""
    (tmp_path / "their_module.py").write_text(MODULE)
    path = tiny_recipe(tmp_path)
    change(path, "dependencies", [{"name": "distillens_plugin"}, {"name": "their_module"}])
    for term in ("kd", "lens"):
        kwargs = yaml.safe_load(path.read_text())["train"]["criterion"]["kwargs"]["sub_terms"]
        layers = {k: v for k, v in kwargs[term]["criterion"]["kwargs"].items() if k == "layers"}
        change(
            path,
            f"{TERMS}.{term}.criterion.kwargs",
            {**layers, "divergence": "their_power", "margin": 1.5},
        )
    criterion = {"key": "their.norm", "kwargs": {"factor": 0.5}}
    change(path, f"{TERMS}.norm", {"criterion": criterion, "weight": 0.1})
    change(path, "train.optimizer", {"key": "their_sgd", "kwargs": {"lr": 0.01}})
    return path


def test_a_trusted_recipe_trains_with_what_its_module_registers(recipe, tmp_path):
    out = ("--output_dir", tmp_path / "run")
    checked = run(recipe, "--trust-recipe", "--validate", *out, folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "ok train.criterion: kd, lens, norm" in checked.stdout
    trained = run(recipe, "--trust-recipe", *out, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    last = records(tmp_path / "run")[-2:]
    assert any("norm" in str(record) for record in last)


def test_without_trust_the_module_is_refused_first_and_not_imported(recipe, tmp_path):
    (tmp_path / "their_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = run(recipe, "--validate", folder=tmp_path)
    assert done.returncode == 2
    assert "found the module 'their_module'" in done.stderr
    assert "--trust-recipe" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_registered_divergences_parameters_are_checked(recipe, tmp_path):
    at = f"{TERMS}.kd.criterion.kwargs"
    for text, part in [
        ("margin=5", "margin: found 5, expected a number from 1 to 3"),
        ("margi=2", "unknown key; did you mean 'margin'?"),
        ("divergence=fkl", "fkl does not read this key (it is for their_power)"),
        ("divergence=their_powr", "did you mean 'their_power'?"),
    ]:
        done = run(recipe, "--trust-recipe", "--validate", "--set", f"{at}.{text}", folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert part in done.stderr


UNKNOWN = [
    ("train.optimizer.key", "AdamaxW", "which is not a known optimizer; did you mean 'Adamax'"),
    ("train.optimizer.key", "LBFGS", "which a recipe cannot use as optimizer"),
    ("train.optimizer.key", "SparseAdam", "which a recipe cannot use as optimizer"),
    ("train.scheduler.key", "StepLr", "which is not a known scheduler; did you mean 'StepLR'?"),
    (
        "train.teacher.forward_proc",
        "forward_batch",
        "which is not a known forward procedure;",
    ),
    ("train.student.forward_proc", "distillens.forwrd", "did you mean 'distillens.forward'"),
    ("train.criterion.func2extract_model_loss", "extract_model_los_dict", "did you mean 'extract"),
    ("train.criterion.key", "WeightedSum", "did you mean 'WeightedSumLoss'"),
    ("train.train_data_loader.collate_fn", "collate", "distillens.collate"),
    ("train.train_data_loader.batch_sampler", "{key: length_grouped}", "distillens.length_grou"),
    ("train.train_data_loader.batch_sampler", "{key: RandomSampler}", "cannot use as batch sam"),
    (
        "train.train_data_loader.sampler",
        "{class_or_func: torch.utils.data.RandmSampler}",
        "did you mean 'RandomSampler'",
    ),
    (
        f"{TERMS}.kd.criterion_wrapper",
        "{key: SimpleLosWrapper}",
        "which is not a known loss wrapper; did you mean 'SimpleLossWrapper'",
    ),
    ("train.pre_epoch_process", "distillens.pre_epoch", "unknown key"),
    ("train.post_forward_process", "default_post_forward_process", "unknown key"),
    ("train.pre_forward_process", "x", "unknown key"),
    ("train.post_epoch_process", "x", "unknown key"),
]


@pytest.mark.parametrize(("key", "value", "part"), UNKNOWN)
def test_an_unknown_name_is_refused_with_its_place(tmp_path, key, value, part):
    fragment = tmp_path / "wrong.yaml"
    node = yaml.safe_load(value)
    for name in reversed(key.split(".")):
        node = {name: node}
    fragment.write_text(yaml.safe_dump(node))
    with pytest.raises(DistillensError) as caught:
        load_recipe(write_recipe(tmp_path), fragments=[fragment])
    text = str(caught.value)
    assert text.startswith(f"{fragment}:")
    assert f": {key}" in text
    assert part in text
    assert "\n" not in text


def test_validate_ends_with_2_before_the_data_is_read(tmp_path):
    path = write_recipe(tmp_path, DISTILLATION)
    done = run(path, "--validate", "--set", "train.optimizer.key=Adm", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        "train.optimizer.key: found 'Adm', which is not a known optimizer; did you mean"
        in done.stderr
    )


def test_names_are_checked_without_torch(tmp_path):
    path = write_recipe(tmp_path, DISTILLATION.replace("AdamW", "RAdam"))
    script = (
        "import sys\nfrom distillens_plugin.recipe.loading import load_recipe\n"
        "from distillens_plugin.recipe.full_form import full_form\n"
        f"recipe = load_recipe({path!r})\n"
        "assert recipe.train.optimizer.key == 'RAdam'\n"
        "for name in ('torch', 'torchdistill', 'transformers'):\n"
        "    assert name not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ("nowhere_at_all.Sampler", "No module named 'nowhere_at_all'"),
        ("torch.utils.nothing", "has no attribute 'nothing'"),
        ("Sampler", "expected a path such as package.module.Name"),
    ],
)
def test_a_trusted_sampler_that_is_not_there_is_refused(tmp_path, named, part):
    override = f"train.train_data_loader.sampler={{class_or_func: {named}}}"
    with pytest.raises(DistillensError) as caught:
        load_recipe(write_recipe(tmp_path), [override], trust=True)
    assert "train.train_data_loader.sampler.class_or_func: " in str(caught.value)
    assert part in str(caught.value)


class Half:
    name = "test_half"

    def __init__(self, share=0.5):
        self.share = share

    def __call__(self, teacher_logits, student_logits):
        return self.share * (teacher_logits - student_logits).square().sum(-1)


def test_registering_a_divergence(monkeypatch):
    # Other tests hold the table against the documentation.
    monkeypatch.setattr(table, "_TABLE", dict(table._TABLE))
    for _ in range(2):  # a module may be imported again
        register_divergence("test_half", Half, parameters={"share": Parameter(0.5, Range(0, 1))})
    assert divergence_names().count("test_half") == 1
    assert make_divergence("test_half", share=0.25, beta=0.1).share == 0.25
    with pytest.raises(ValueError, match=r"share = 2, expected a number from 0 to 1"):
        make_divergence("test_half", share=2)
    with pytest.raises(ValueError, match=r"sharp is not a parameter of any divergence.*'share'"):
        make_divergence("test_half", sharp=1)
    with pytest.raises(ValueError, match=r"'jsd' is already distillens_plugin"):
        register_divergence("jsd", Half)
    with pytest.raises(ValueError, match=r"'fkl\+rkl' is already distillens_plugin"):
        register_divergence("fkl+rkl", Half)
    with pytest.raises(ValueError, match="'temperature', which is a key of the loss terms"):
        register_divergence("hot", Half, parameters={"temperature": Parameter(1.0, Range(0))})
    with pytest.raises(ValueError, match="expected a non-empty string"):
        register_divergence("", Half)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("raise RuntimeError('no licence')", r"RuntimeError: no licence"),
        ("def (", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        (
            "from distillens_plugin.divergences import register_divergence\n"
            "register_divergence('fkl', print)",
            "ValueError: the divergence 'fkl' is",
        ),
    ],
)
def test_a_dependency_whose_import_fails_is_named_with_its_line(tmp_path, monkeypatch, code, part):
    name = f"fails_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = Path(write_recipe(tmp_path))
    change(path, "dependencies", [{"name": name}])

    with pytest.raises(DistillensError, match=rf"recipe\.yaml:\d+: dependencies\.0: .*{part}"):
        load_recipe(str(path), trust=True)


@pytest.mark.parametrize("name", ["", ".relative"])
def test_a_dependency_that_is_no_module_name_is_refused(tmp_path, name):
    path = Path(write_recipe(tmp_path))
    change(path, "dependencies", [{"name": name}])

    with pytest.raises(DistillensError, match=r"dependencies\.0: "):
        load_recipe(str(path), trust=True)
