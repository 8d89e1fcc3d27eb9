"""Hostile recipes: refused in one line or fine, at once, and nothing written or run.

The suite tries a few hundred. `DISTILLENS_HOSTILE_CASES=2000 pytest` on this file tries as many as
you like, the first of which are those of the suite.
"""

import os
import shutil

import pytest
from hostile_yaml import handmade, mutated
from run_process import distillens
from tiny_run import ASSETS, REPO
from watched import call, unchanged

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.run import main

NUM_CASES = int(os.environ.get("DISTILLENS_HOSTILE_CASES", "250"))
SEED = 20261126


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the quickstart with few rows."""
    folder = tmp_path_factory.mktemp("hostile")
    assets = folder / "quickstart"
    assets.mkdir()
    for name in ("teacher", "tokenizer"):
        shutil.copytree(ASSETS / name, assets / name)
    for name, num_rows in (("train.jsonl", 30), ("valid.jsonl", 5)):
        lines = (ASSETS / name).read_bytes().split(b"\n")[:num_rows]
        (assets / name).write_bytes(b"\n".join(lines) + b"\n")
    return folder


@pytest.fixture(scope="module")
def quickstart():
    text = (REPO / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    # Fewer comments, so that more of the broken places are in the recipe itself.
    return text[text.index("dependencies:") :]


def schema_keys(model=Recipe, path=""):
    """Dotted paths of all keys that a recipe can have."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}"
        for inner in _models_of(field.annotation):
            yield from schema_keys(inner, f"{path}{name}.")


def _models_of(annotation):
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    parts = getattr(annotation, "__args__", ())
    return [model for part in parts for model in _models_of(part)] if parts else []


def fault_of(case, folder):
    """What is wrong with how `run --validate` answers a case; "" where nothing is."""
    for name, content in {**case.files, "recipe.yaml": case.content}.items():
        (folder / name).write_bytes(content)
    arguments = [str(folder / "recipe.yaml"), "--validate"]
    for text in case.sets:
        arguments += ["--set", text]
    try:
        with unchanged(folder):
            outcome = call(main, arguments)
    finally:
        for name in case.files:
            (folder / name).unlink()
    return outcome.fault()


def test_hostile_recipes_end_in_one_line_or_are_fine(folder, quickstart, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "recipe.yaml").write_text(quickstart, encoding="utf-8")
    # Whatever is imported or made at first use is there before the clock runs.
    assert call(main, [str(folder / "recipe.yaml"), "--validate"]).code == 0
    keys = [key for key in dict.fromkeys(schema_keys()) if not key.startswith("dependencies")]
    keys += [
        "dependencies",
        "base",
        "train.optimizer.kwargs.eps",
        "models.student_model.init.config.x",
    ]
    cases = [*handmade(quickstart), *mutated(quickstart, keys, num_cases=NUM_CASES, seed=SEED)]
    faults = [(case.name, fault) for case in cases if (fault := fault_of(case, folder))]
    assert not faults, f"{len(faults)} of {len(cases)}: {faults[:20]}"


def test_a_refusal_as_a_process_is_one_line_and_writes_nothing(folder, quickstart):
    (folder / "recipe.yaml").write_text(quickstart, encoding="utf-8")
    with unchanged(folder):
        wrong = distillens(
            folder / "recipe.yaml", "--validate", "--set", "seed=" + "1" * 400, cwd=folder
        )
    assert wrong.returncode == 2
    assert "fits in 64 bits" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
