"""A key is a path by its type, and a path starts from the file that says it."""

import re

import pytest
from pydantic import BaseModel
from recipe_text import DISTILLATION, LENS, write_recipe

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.base import PathKey, Strict
from distillens_plugin.recipe.schema.paths import fits, matching, path_keys
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.study.load import load_study
from distillens_plugin.study.spec import Study

# Described with a file or a folder, and yet no path here: what lies in a repository on the Hub.
NO_PATHS = {"data_files"}


def sections(model: type[BaseModel], found: set[type[BaseModel]] | None = None):
    """A model and all below it, those behind plain mappings too."""
    found = set() if found is None else found
    if model in found:
        return found
    found.add(model)
    inner = model.inner_models() if issubclass(model, Strict) else {}
    for models in inner.values():
        for one in models:
            sections(one, found)
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                sections(part, found)
    return found


def _parts(annotation):
    import typing

    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


@pytest.mark.parametrize("root", [Recipe, Study])
def test_a_key_that_is_described_as_a_file_or_a_folder_is_a_path(root):
    checked = 0
    for model in sections(root):
        marked = {at[0] for at, _ in path_keys(model)}
        for name, field in model.model_fields.items():
            begins = re.match(r"(task: )?(JSON Lines )?(files?|folder)\b", field.description or "")
            if begins and name not in NO_PATHS:
                assert name in marked, f"{model.__name__}.{name}"
                checked += 1
    assert checked >= (9 if root is Recipe else 2)


def test_the_path_keys_of_a_recipe():
    found = {".".join(map(str, at)) for at, _ in path_keys(Recipe)}
    roles = ("teacher_model", "student_model", "model")
    models = {f"models.{role}.{key}" for role in roles for key in ("tokenizer", "adapter")}
    models |= {f"models.{role}.name_or_path" for role in roles}
    assert found == models | {
        "models.student_model.init.teacher",
        "models.model.init.teacher",
        "datasets.train.path",
        "datasets.validation.path",
        "train.criterion.kwargs.sub_terms.*.criterion.kwargs.teacher_translators",
        "train.criterion.kwargs.sub_terms.*.criterion.kwargs.metric_file",
        "train.on_policy.server.weights_dir",
        "teacher_cache.path",
        "output_dir",
    }


def test_the_folder_of_a_servers_weights_starts_from_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "w").mkdir()
    path = write_recipe(tmp_path)
    text = DISTILLATION + "  on_policy: {server: {base_url: http://localhost, weights_dir: ./w}}\n"
    path = write_recipe(tmp_path, text)
    monkeypatch.chdir(tmp_path.parent)
    server = load_recipe(path).train.on_policy.server
    assert server.weights_dir == str(tmp_path / "w")


def test_translators_of_a_term_start_from_the_recipe(tmp_path):
    text = DISTILLATION.replace("beta: 0.5", "norm: final, teacher_translators: ./t.safetensors")
    recipe = load_recipe(write_recipe(tmp_path, text))
    kwargs = recipe.train.criterion.kwargs.sub_terms["lens"].criterion.kwargs
    assert kwargs["teacher_translators"] == str(tmp_path / "t.safetensors")
    assert LENS.endswith("kwargs")


def test_a_studys_recipe_and_fragments_are_files_in_both_forms(tmp_path, monkeypatch):
    for name in ("r.yaml", "a.yaml", "b.yaml"):
        (tmp_path / name).write_text(DISTILLATION)
    (tmp_path / "study.yaml").write_text(
        "title: t\nrecipe: r.yaml\nseeds: [1]\ncompare_to: [one]\noutput_dir: ./out\n"
        "methods: {one: [a.yaml], two: {label: b.yaml, fragments: [b.yaml]}}\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    study = load_study(tmp_path / "study.yaml")
    below = tmp_path.name
    assert study.recipe == f"{below}/r.yaml"
    assert study.methods["one"].fragments == [f"{below}/a.yaml"]
    assert study.methods["two"].fragments == [f"{below}/b.yaml"]
    assert study.methods["two"].label == "b.yaml"
    assert study.output_dir == f"{below}/out"
    assert {at for at, kind in path_keys(Study) if kind == PathKey(always=True)} == {
        ("recipe",),
        ("methods", "*", "fragments", "*"),
    }


def test_patterns():
    data = {"a": [{"b": "x"}, {"b": 3}], "c": {"d": "y", "e": "z"}}
    assert matching(data, ("a", "*", "b")) == [("a", 0, "b")]
    assert matching(data, ("c", "*")) == [("c", "d"), ("c", "e")]
    assert fits(("a", 0, "b"), ("a", "*", "b"))
    assert not fits(("a", 0), ("a", "*", "b"))
