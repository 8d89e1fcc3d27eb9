"""`train_data_loader.packing`: the packs of a run, and whether its models keep their rows apart."""

from accelerate import Accelerator
from torch import nn

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.packing import PackedDataset
from distillens_plugin.lens.packing_check import check_packing
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage.main_process import say
from eval_harness.errors import DistillensError

_KEY = "train.train_data_loader.packing"


def packed(
    recipe: Recipe, train: InstructionDataset, accelerator: Accelerator
) -> InstructionDataset | PackedDataset:
    """What the loader's batches are made of: the rows, or packs of them if the recipe asks so.

    Raises:
        DistillensError: a row does not fit into a pack.
    """
    if not recipe.train.train_data_loader.packing:
        return train
    try:
        packs = PackedDataset(train, recipe.datasets.train.max_length, seed=recipe.seed)
    except DistillensError as error:
        raise DistillensError(f"{recipe.where(_KEY)}: {error}") from error
    say(accelerator, packs.describe())
    return packs


def check_models(
    recipe: Recipe, teacher: nn.Module | None, student: nn.Module, accelerator: Accelerator
) -> None:
    """Refuses models that mix packed rows; they must be on the device that trains.

    Raises:
        DistillensError: names the model and what it lacks.
    """
    if not recipe.train.train_data_loader.packing:
        return
    with accelerator.autocast():
        for role, model in (("teacher", teacher), (recipe.trained_role, student)):
            if model is not None:
                name = role.removesuffix("_model")
                check_packing(model, role=name, where=recipe.where(_KEY))
