"""Each kind of name stands in one table, and whatever else names them says the same."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from distillens_plugin.divergences import DIVERGENCES, make_divergence
from distillens_plugin.divergences.table import RESERVED, divergence_entry, divergence_names
from distillens_plugin.models.loading import DTYPES
from distillens_plugin.recipe.keys_document import DOCUMENT
from distillens_plugin.recipe.schema.data import DatasetSpec
from distillens_plugin.recipe.schema.models import ModelSpec
from distillens_plugin.recipe.schema.names import KINDS, LOSS_TERM, OPTIMIZER, SCHEDULER, Kind
from distillens_plugin.recipe.schema.terms import (
    TERMS,
    LensKwargs,
    LogitsKwargs,
)
from distillens_plugin.recipe.schema.torchdistill_names import SAMPLER_MODULES, SAMPLERS
from distillens_plugin.study.spec import Evaluation, Generate
from distillens_plugin.tables.makers import resolve
from eval_harness.backends.table import BACKENDS
from eval_harness.protocols.protocol import PROTOCOLS
from eval_harness.shared.text.template_table import TEMPLATES

REPO = Path(__file__).resolve().parents[2]
METHODS = sorted((REPO / "recipes" / "methods").glob("*.yaml"))
OWN = [(kind, key) for kind in KINDS for key in kind.own]


def kwargs_of(path: Path, term: str) -> dict[str, Any]:
    """What a method's fragment sets of a term's parameters."""
    node: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("train", "criterion", "kwargs", "sub_terms", term, "criterion", "kwargs"):
        node = (node or {}).get(key)
    return node or {}


@pytest.fixture(scope="module")
def registries() -> dict[str, list[str]]:
    """What torchdistill's registries hold in a process of their own, where a box has been used."""
    paths = [path for kind in KINDS for path in kind.registries]
    script = (
        "import json, sys, importlib, distillens_plugin\n"
        "import torchdistill.core.distillation, torchdistill.core.training\n"
        "found = {}\n"
        f"for path in {paths}:\n"
        "    module, _, name = path.partition(':')\n"
        "    found[path] = sorted(getattr(importlib.import_module(module), name))\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_the_listed_names_are_those_of_the_registries(
    kind: Kind, registries: dict[str, list[str]]
) -> None:
    found = {key for path in kind.registries for key in registries[path]}
    listed = {*kind.own, *kind.theirs, *kind.unusable}
    assert not set(kind.theirs) & set(kind.unusable)
    if kind.theirs:
        assert found == listed
    else:  # torchdistill's own cannot be named in a recipe
        assert set(kind.own) <= found


def test_the_samplers_are_those_of_torch() -> None:
    found = {
        name
        for module in SAMPLER_MODULES
        for name in vars(__import__(module, fromlist=["_"]))
        if name.endswith("Sampler")
    }
    assert found == set(SAMPLERS)


@pytest.mark.parametrize(("kind", "key"), OWN, ids=lambda value: getattr(value, "what", value))
def test_a_maker_takes_the_keys_of_its_table_with_their_defaults(kind: Kind, key: str) -> None:
    own = kind.own[key]
    maker = resolve(own.maker)
    assert callable(maker)
    if own.parameters is None:
        return
    taken = inspect.signature(maker).parameters
    fields = own.parameters.model_fields
    if kind is LOSS_TERM:
        named = {name for name, taking in taken.items() if taking.kind is not taking.VAR_KEYWORD}
        assert named <= set(fields), "no recipe can give these"
    for name, field in fields.items():
        if name not in taken:
            # The full form turns the ratio into steps, and ConstantKwargs refuses the floor.
            read = {key for known in DIVERGENCES for key in divergence_entry(known).parameters}
            assert name in ({"warmup_ratio", "min_lr"} if kind is SCHEDULER else read) or (
                kind is OPTIMIZER and name in inspect.signature(torch.optim.AdamW).parameters
            )
        elif field.default is not None and not field.is_required():
            assert taken[name].default == field.default, name


@pytest.mark.parametrize("key", TERMS)
def test_a_loss_term_needs_a_teacher_where_its_entry_says_so(key: str) -> None:
    assert resolve(TERMS[key].maker).needs_teacher == TERMS[key].needs_teacher


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_has_the_name_and_the_defaults_of_its_entry(name: str) -> None:
    divergence = make_divergence(name)
    assert divergence.name == name
    defaults = {key: p.default for key, p in divergence_entry(name).parameters.items()}
    assert make_divergence(name, **defaults) == divergence
    assert type(divergence)() == divergence, "the class has other defaults than its entry"
    for alias in divergence_entry(name).aliases:
        assert make_divergence(alias) == divergence


def test_divergences_are_one_fragment_each_and_no_other() -> None:
    found = {str(kwargs_of(path, "kd").get("divergence")) for path in METHODS} - {"None"}
    known = {divergence_entry(name).maker for name in found}
    assert known == {divergence_entry(name).maker for name in DIVERGENCES}


def test_the_keys_that_stand_beside_a_divergences_parameters_are_reserved() -> None:
    parameters = {key for name in DIVERGENCES for key in divergence_entry(name).parameters}
    fields = {*LensKwargs.model_fields, *LogitsKwargs.model_fields}
    assert fields - parameters == RESERVED


def test_every_fragment_is_a_row_of_the_documentation_and_no_other() -> None:
    text = (REPO / "docs" / "methods.md").read_text(encoding="utf-8")
    table = text.split("## All methods")[1].split("\n## ")[0]
    cells = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {path.stem for path in METHODS}


def test_every_loss_term_is_in_a_shipped_recipe_and_no_other() -> None:
    used = set()
    for path in sorted((REPO / "recipes").rglob("*.yaml")):
        found = re.findall(r"key: ['\"]?([\w.]+)", path.read_text(encoding="utf-8"))
        used.update(key for key in found if key in LOSS_TERM.known() or "Loss" in key)
    assert used - {"WeightedSumLoss"} == set(TERMS)


def test_every_name_is_in_the_documentation_of_keys() -> None:
    text = (REPO / DOCUMENT).read_text(encoding="utf-8")
    for name in divergence_names(aliases=True):
        assert f"`{name}`" in text
    for kind, key in OWN:
        assert f"`{kind.own[key].short or key}`" in text


def test_templates_backends_protocols_and_types_are_those_of_their_tables() -> None:
    described = DatasetSpec.model_fields["template"].description or ""
    listed = re.sub(r"\(.*?\)", "", described.split(" or a format string")[0]).split(",")
    assert {name.strip() for name in listed} == set(TEMPLATES)
    # A server has one model, and each run of a study its own.
    for model, lacking in ((Evaluation, {"server"}), (Generate, set())):
        assert set(get_args(model.model_fields["model"].annotation)) == set(BACKENDS) - lacking
    protocols = Evaluation.model_fields["protocols"].description or ""
    words = re.sub(r"\(.*?\)", "", protocols).replace(" ", "").split(",")
    assert set(words) == set(PROTOCOLS)
    assert set(get_args(ModelSpec.model_fields["dtype"].annotation)) == set(DTYPES)
