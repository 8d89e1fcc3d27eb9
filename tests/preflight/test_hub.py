"""A Hub that does not answer or lacks a name, and names that cannot be on it."""

from types import SimpleNamespace
from typing import Any

import pytest
from recipe_text import write_recipe

from distillens_plugin.models.hub import Hub, UnreachableError, is_path
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError


def test_a_hub_that_does_not_answer_skips_with_the_reason(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path), [f"output_dir={tmp_path / 'run'}"])
    lines = validate_without_weights(recipe)
    skipped = [line for line in lines if line.startswith("skipped")]
    assert len(skipped) == 6
    assert sum("the Hub cannot be reached" in line for line in skipped) == 4


def test_after_one_request_without_an_answer_no_second_is_made(monkeypatch):
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fail)
    hub = Hub()
    for name in ("a/b", "c/d"):
        with pytest.raises(UnreachableError, match="OSError"):
            hub.require("model", name, None, "models.model")
    assert len(calls) == 1


def test_a_repository_that_is_not_there_is_an_error_and_no_skip(monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    response: Any = SimpleNamespace(headers={}, request=None)

    def fail(*args, **kwargs):
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fail)
    with pytest.raises(DistillensError, match="no such dataset on the Hub"):
        Hub().require("dataset", "a/b", None, "datasets.train.path")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", False),
        ("org/model", False),
        ("/a", True),
        ("./a", True),
        ("a/b/c", True),
        ("~/a", True),
    ],
)
def test_only_what_no_hub_name_can_be_is_a_path(name, expected):
    assert is_path(name) == expected
