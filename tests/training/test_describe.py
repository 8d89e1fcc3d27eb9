"""The description of a run before its first step."""

import pytest
from tiny_run import REPO, tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.describe import describe_models

TERMS = "train.criterion.kwargs.sub_terms"
NO_KD = f"{TERMS}.kd=null"
FIRST_BLOCK = f"{TERMS}.hidden_mse.criterion.kwargs.layers={{student: [1], teacher: [2]}}"
LAST_BLOCK = f"{TERMS}.hidden_mse.criterion.kwargs.layers={{student: [2], teacher: [4]}}"


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ([NO_KD, FIRST_BLOCK], True),
        ([FIRST_BLOCK], False),
        ([NO_KD, LAST_BLOCK], False),
        ([NO_KD, FIRST_BLOCK, "train.optimizer.kwargs.weight_decay=0"], False),
        ([NO_KD, FIRST_BLOCK, "train.student.frozen_modules=[transformer.h.1]"], False),
    ],
)
def test_blocks_that_get_weight_decay_alone_are_noted(tmp_path, changes, noted):
    recipe = load_recipe(
        tiny_recipe(tmp_path), changes, fragments=[REPO / "recipes" / "methods" / "hidden_mse.yaml"]
    )
    experiment = build_experiment(recipe, make_accelerator(recipe, None), load_data(recipe))
    note = "note: no loss term reads the student above layer 1, so blocks 2 to 2 get weight decay"
    assert (note in describe_models(experiment)) == noted
