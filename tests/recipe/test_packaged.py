"""Names of shipped recipes: which file each stands for, and `distillens recipes`."""

import argparse
from pathlib import Path

import pytest

from distillens_plugin.commands import recipes
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.packaged import (
    description,
    find_recipe,
    packaged_folder,
    packaged_names,
)
from distillens_plugin.study.load import load_study
from eval_harness.errors import DistillensError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    recipes.add_parser(parser.add_subparsers())
    return recipes.run(parser.parse_args(["recipes", *arguments]))


def test_every_shipped_yaml_file_has_a_name_and_a_description(repo):
    names = packaged_names()
    launches = list((repo / "recipes" / "accelerate").glob("*.yaml"))
    shipped = len(list((repo / "recipes").rglob("*.yaml"))) - len(launches)
    assert len(names) == len(set(names)) == shipped
    assert len(launches) == 4
    for name in names:
        text = description(packaged_folder() / f"{name}.yaml")
        assert 20 < len(text) < 300, name
        assert "\n" not in text
        assert text.count("(") == text.count(")")


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.yaml", "methods/sft", "studies/quickstart"]
)
def test_a_name_stands_for_the_shipped_file(repo, name):
    assert Path(find_recipe(name)) == repo / "recipes" / (name.removesuffix(".yaml") + ".yaml")


def test_a_study_needs_no_folder_in_its_name(repo):
    assert (
        Path(find_recipe("quickstart", within="studies"))
        == repo / "recipes/studies/quickstart.yaml"
    )
    assert load_study("quickstart").title.startswith("GSM8K")


@pytest.mark.parametrize("given", ["quickstart", "quickstart.yaml", "./quickstart.yaml"])
def test_a_file_that_is_there_comes_first(given):
    Path("quickstart.yaml").write_text("models: {}\n")
    assert find_recipe(given) in {"quickstart.yaml", "./quickstart.yaml"}


def test_a_folder_of_the_name_is_no_recipe(repo):
    Path("quickstart").mkdir()
    assert Path(find_recipe("quickstart")) == repo / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize(
    "given", ["../quickstart", "/quickstart", "./quickstart", "a/../quickstart"]
)
def test_only_plain_names_lead_into_the_package(given):
    assert find_recipe(given) == given


def test_a_name_that_is_not_known_gets_the_near_ones():
    with pytest.raises(DistillensError, match=r"'quickstart'") as caught:
        find_recipe("quickstrt")
    assert "\n" not in str(caught.value)
    with pytest.raises(DistillensError, match=r"the shipped one is gpt2 here"):
        find_recipe("recipes/gpt2.yaml")


def test_what_a_packaged_recipe_writes_goes_below_the_working_folder():
    recipe = load_recipe("quickstart", fragments=["methods/sft"])
    assert recipe.output_dir == "runs/quickstart-sft"
    assert recipe.datasets.train.path == str(packaged_folder() / "quickstart" / "train.jsonl")
    assert load_study("quickstart").output_dir == "runs/studies/quickstart"


def test_the_list_has_three_groups(capsys):
    assert call() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith(":")] == [
        "Recipes",
        "Methods",
        "Studies",
    ]
    assert any(line.split()[:2] == ["quickstart", "The"] for line in lines)


def test_copied_recipes_load_and_name_their_own_data(capsys):
    assert call("--copy", "mine") == 0
    assert "mine/quickstart.yaml" in capsys.readouterr().out
    recipe = load_recipe("mine/quickstart.yaml")
    assert recipe.datasets.train.path == str(Path("mine/quickstart/train.jsonl").resolve())


def test_copying_replaces_no_file():
    Path("mine/methods").mkdir(parents=True)
    Path("mine/methods/sft.yaml").write_text("mine\n")
    with pytest.raises(DistillensError, match=r"found existing methods/sft\.yaml"):
        call("--copy", "mine")
    assert Path("mine/methods/sft.yaml").read_text() == "mine\n"
    assert [path.name for path in Path("mine").iterdir()] == ["methods"]


def test_copying_into_a_file_is_refused():
    Path("mine").write_text("")
    with pytest.raises(DistillensError, match="mine"):
        call("--copy", "mine")
