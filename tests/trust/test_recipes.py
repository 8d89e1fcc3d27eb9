"""Recipes and what they name run no code without --trust-recipe."""

import json
import sys

import pytest
from hostile_code import SAMPLER, refused, with_keys
from tiny_run import tiny_recipe
from tiny_study import tiny_study

from distillens_plugin import cli
from eval_harness.shared.model_folder.trust import (
    RECIPE_FLAG,
)

RUNNING = {
    "models.teacher_model.trust_remote_code": (True, "runs code that comes with"),
    "models.student_model.trust_remote_code": (True, "runs code that comes with"),
    "models.teacher_model.attn_implementation": ("evil/attention", "code from the Hub"),
    "models.student_model.init.config.attn_implementation": ("evil/attention", "code from the Hub"),
    "models.student_model.init.config.auto_map": (
        {"AutoModel": "evil/x--y.Z"},
        "names a model's own code",
    ),
    "dependencies": ([{"name": "own_module"}], "is imported and so runs"),
    f"{SAMPLER}.class_or_func": ("own_module.Sampler", "is imported and called"),
}


@pytest.mark.parametrize("key", RUNNING)
@pytest.mark.parametrize("way", ["recipe", "base", "fragment", "set", "generate", "lens-report"])
def test_keys_that_run_code_need_trust_wherever_they_stand(tmp_path, marker, key, way):
    (tmp_path / "own_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    sys.path.insert(0, str(tmp_path))
    value, effect = RUNNING[key]
    recipe = tiny_recipe(tmp_path)
    arguments = ["run", recipe, "--validate"]
    if way in ("recipe", "generate", "lens-report"):
        with_keys(recipe, {key: value})
    if way == "base":
        with_keys(recipe, {key: value})
        (tmp_path / "derived.yaml").write_text("base: recipe.yaml\nseed: 3\n")
        arguments[1] = tmp_path / "derived.yaml"
    elif way == "fragment":
        (tmp_path / "fragment.yaml").write_text("log_every: 2\n")
        arguments += ["--with", with_keys(tmp_path / "fragment.yaml", {key: value})]
    elif way == "set":
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    elif way == "generate":
        arguments = ["generate", recipe, "--output", tmp_path / "answers.jsonl", "--model", "hf"]
    elif way == "lens-report":
        arguments = ["lens-report", recipe]
    try:
        message = refused(cli.main, *arguments)
    finally:
        sys.path.remove(str(tmp_path))
        assert sys.modules.pop("own_module", None) is None
    assert effect in message
    assert RECIPE_FLAG in message
    assert "--set" in message if way == "set" else ".yaml" in message


@pytest.mark.parametrize(
    "value",
    [
        "!import_call {key: os.system, init: {args: ['touch MARKER']}}",
        "!import_get {key: os.system}",
        "!!python/object/apply:os.system ['touch MARKER']",
        "!getattr [os, system]",
    ],
)
@pytest.mark.parametrize("way", ["recipe", "base", "fragment", "set", "study"])
def test_tags_that_run_code_need_trust(tmp_path, marker, value, way):
    recipe = tiny_recipe(tmp_path)
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(f"seed: {value}\n")
    arguments = ["run", recipe, "--validate"]
    if way == "recipe":
        arguments[1] = hostile
    elif way == "base":
        (tmp_path / "derived.yaml").write_text("base: hostile.yaml\n")
        arguments[1] = tmp_path / "derived.yaml"
    elif way == "fragment":
        arguments += ["--with", hostile]
    elif way == "set":
        arguments += ["--set", f"seed={value}"]
    else:
        hostile.write_text(tiny_study(tmp_path).read_text() + f"budget: {value}\n")
        arguments = ["study", hostile, "--validate"]
    assert RECIPE_FLAG in refused(cli.main, *arguments)
