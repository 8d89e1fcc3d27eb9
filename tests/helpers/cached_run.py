"""A built experiment with a teacher cache, run epoch by epoch, whose teacher is counted."""

import shutil

import pytest
from run_process import change
from tiny_run import tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.forward import reader_of
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache import attach_teacher_cache
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows

LENS = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"


def cached_recipe(folder, dtype="bfloat16", **changes):
    """The tiny recipe with a cache beside it; the teacher and the data are shared by its runs."""
    path = tiny_recipe(folder, teacher_cache={"path": "./cache", "dtype": dtype})
    for dotted, value in changes.items():
        change(path, dotted.replace("__", "."), value)
    return path


class Run:
    """A built experiment whose teacher is counted; epochs are run one by one."""

    def __init__(self, path, *, cached=True, shard_bytes=2**28, overrides=(), states_only=False):
        recipe = load_recipe(str(path), overrides=list(overrides))
        self.accelerator = make_accelerator(recipe, tracker_folder=None)
        self.experiment = build_experiment(
            recipe, self.accelerator, load_data(recipe), states_only=states_only
        )
        self.box = self.experiment.box
        self.trainer = Trainer(self.box, self.accelerator)
        if cached:
            self.cache = attach_teacher_cache(self.experiment, shard_bytes=shard_bytes)
        # Its self-check runs a probe through the teacher, once a run.
        if not states_only:
            reader_of(self.box.teacher_model)
        self.num_teacher_calls = 0
        self.box.org_teacher_model.register_forward_hook(self._count)

    def _count(self, *args):
        self.num_teacher_calls += 1

    def epoch(self, number, num_steps=None):
        """The loss terms of each step of an epoch (or its first steps), and the teacher's calls."""
        before = self.num_teacher_calls
        self.box.pre_epoch_process(epoch=number)
        steps = []
        for window in windows(
            self.box.train_data_loader, self.box.grad_accum_step, self.accelerator
        ):
            steps.append(self.trainer.step(window).values)
            if len(steps) == num_steps:
                break
        self.box.post_epoch_process()
        return steps, self.num_teacher_calls - before

    def close(self):
        self.cache.close()


def agree(left, right, **tolerance):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one == pytest.approx(other, **tolerance)


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def copy_of(filled, folder):
    """A recipe folder with a filled cache, free to be spoilt."""
    shutil.copytree(filled.folder, folder, dirs_exist_ok=True)
    path = folder / "recipe.yaml"
    change(path, "models.teacher_model.name_or_path", str(folder / "teacher"))
    change(path, "output_dir", str(folder / "out"))
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])
