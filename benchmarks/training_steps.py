"""A run of a recipe whose training steps are taken on demand, for benchmarks."""

from collections.abc import Iterator

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import Window, windows


class TrainingSteps:
    """`next(steps.windows)` is the next step's batches, epoch after epoch; `trainer` takes it."""

    def __init__(self, recipe: Recipe) -> None:
        accelerator = make_accelerator(recipe, tracker_folder=None)
        self.experiment = build_experiment(recipe, accelerator, load_data(recipe))
        self.trainer = Trainer(self.experiment.box, accelerator)
        self.windows = self._endless()

    def _endless(self) -> Iterator[Window]:
        box, epoch = self.experiment.box, 0
        while True:
            box.pre_epoch_process(epoch=epoch)
            yield from windows(box.train_data_loader, 1, self.trainer.accelerator)
            epoch += 1
