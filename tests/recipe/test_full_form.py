"""The full torchdistill configuration of a recipe."""

from types import SimpleNamespace

import pytest
import torch
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe
from torch.utils.data import RandomSampler, SequentialSampler
from torchdistill.common.yaml_util import load_yaml_file

from distillens_plugin.recipe.full_form import full_form, total_steps
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.yaml_dumper import to_yaml
from eval_harness.errors import DistillensError

STUDENT = SimpleNamespace(num_layers=2, blocks="transformer.h")
TEACHER = SimpleNamespace(num_layers=4, blocks="model.layers")


def form_of(folder, *overrides: str, text: str = DISTILLATION, steps: int | None = 10):
    recipe = load_recipe(write_recipe(folder, text), overrides)
    teacher = TEACHER if recipe.is_distillation else None
    return full_form(recipe, STUDENT, teacher, steps_per_epoch=steps)


def test_what_can_be_derived_is_filled_in(tmp_path):
    form = form_of(tmp_path, "datasets.validation={path: b}", "train.scheduler.key=cosine")
    train = form["train"]
    assert form["dependencies"] == [{"name": "distillens_plugin"}]
    assert train["num_epochs"] == 2
    assert train["train_data_loader"] == {
        "dataset_id": "train",
        "sampler": {"class_or_func": SequentialSampler},
        "batch_sampler": {
            "key": "distillens.length_grouped",
            "kwargs": {"batch_size": 4, "seed": 10},
        },
        "collate_fn": "distillens.collate",
        "requires_supp": False,
        "kwargs": {"num_workers": 0},
    }
    assert train["val_data_loader"] == {**train["train_data_loader"], "dataset_id": "validation"}
    assert train["teacher"] == {
        "forward_proc": "distillens.forward",
        "forward_hook": {"output": ["model.layers.1", "model.layers.3"]},
        "requires_grad": False,
    }
    assert train["student"] == {
        "forward_proc": "distillens.forward",
        "forward_hook": {"output": ["transformer.h.0", "transformer.h.1"]},
    }
    assert train["optimizer"] == {
        "key": "distillens.adamw",
        "kwargs": {"lr": 1e-4},
        "filters_params": False,
        "grad_accum_step": 1,
    }
    assert train["scheduler"] == {
        "key": "distillens.cosine",
        "kwargs": {"num_steps": 20, "warmup_steps": 0},
        "scheduling_step": 1,
    }
    assert train["criterion"]["key"] == "distillens.weighted_sum"
    assert train["criterion"]["func2extract_model_loss"] == "distillens.no_model_loss"
    assert train["pre_epoch_process"] == "distillens.pre_epoch"
    assert train["post_forward_process"] == "distillens.post_forward"


def test_the_seed_orders_batches_that_are_written_out_too(tmp_path):
    def batches(kwargs, *overrides):
        sampler = f"train.train_data_loader.batch_sampler={{{kwargs}}}"
        loader = form_of(tmp_path, sampler, *overrides)["train"]["train_data_loader"]
        return loader["batch_sampler"]["kwargs"]

    own = "key: distillens.length_grouped, kwargs: {pool_batches: 2%s}"
    assert batches(own % "", "seed=3") == {"batch_size": 4, "pool_batches": 2, "seed": 3}
    assert batches(own % ", seed: 7", "seed=3")["seed"] == 7
    assert batches("key: BatchSampler, kwargs: {drop_last: true}", "seed=3") == {
        "batch_size": 4,
        "drop_last": True,
    }


def test_layer_zero_is_the_input_of_the_first_block_and_paths_are_taken_as_they_are(tmp_path):
    form = form_of(tmp_path, f"{LENS}.layers={{student: [0, a.b], teacher: [1, c.d]}}")
    assert form["train"]["student"]["forward_hook"] == {
        "input": ["transformer.h.0"],
        "output": ["a.b"],
    }
    assert form["train"]["teacher"]["forward_hook"] == {"output": ["model.layers.0", "c.d"]}


def test_hooks_of_several_lenses_and_of_the_recipe_are_united(tmp_path):
    form = form_of(
        tmp_path,
        "train.criterion.kwargs.sub_terms.more={criterion: {key: DistillLensLoss, kwargs: {layers: "
        "{student: [2, 0], teacher: [4, 1]}}}}",
        "train.student={forward_hook: {input: [transformer.ln_f], output: [transformer.h.0]}}",
        "train.teacher={requires_grad: false, frozen_modules: [x]}",
    )
    assert form["train"]["student"]["forward_hook"] == {
        "input": ["transformer.h.0", "transformer.ln_f"],
        "output": ["transformer.h.0", "transformer.h.1"],
    }
    assert form["train"]["teacher"]["frozen_modules"] == ["x"]


def test_a_layer_out_of_range_names_the_range(tmp_path):
    with pytest.raises(DistillensError, match="0 to 2"):
        form_of(tmp_path, f"{LENS}.layers.student=[1, 3]")


def test_without_a_teacher_the_form_is_a_training_boxs(tmp_path):
    train = form_of(tmp_path, text=FINE_TUNING)["train"]
    assert train["model"] == {"forward_proc": "distillens.forward"}
    assert "student" not in train
    assert "teacher" not in train
    assert train["val_data_loader"] == {}
    assert train["criterion"]["kwargs"]["sub_terms"]["ce"] == {
        "criterion": {"key": "distillens.cross_entropy", "kwargs": {}},
        "weight": 1.0,
    }


def test_warm_up_and_run_length_follow_from_the_steps(tmp_path):
    warm = "train.scheduler={key: linear, kwargs: {warmup_ratio: 0.25, min_lr: 1e-6}}"
    scheduler = form_of(tmp_path, warm)["train"]["scheduler"]
    assert scheduler["kwargs"] == {"num_steps": 20, "warmup_steps": 5, "min_lr": 1e-6}
    unknown = form_of(tmp_path, warm, steps=None)["train"]["scheduler"]
    assert unknown["kwargs"] == {"num_steps": None, "warmup_steps": None, "min_lr": 1e-6}
    in_steps = form_of(tmp_path, "train.num_epochs=null", "train.num_steps=25")["train"]
    assert in_steps["num_epochs"] == 3
    assert in_steps["scheduler"]["kwargs"]["num_steps"] == 25


def test_total_steps_is_unknown_only_for_epochs_of_unknown_length(tmp_path):
    epochs = load_recipe(write_recipe(tmp_path))
    steps = load_recipe(write_recipe(tmp_path, FINE_TUNING))
    assert [total_steps(epochs, None), total_steps(epochs, 7)] == [None, 14]
    assert [total_steps(steps, None), total_steps(steps, 7)] == [10, 10]


def test_a_sampler_of_ones_own_replaces_length_grouping(tmp_path):
    own = "!import_get {key: torch.utils.data.RandomSampler}"
    loader = form_of(
        tmp_path,
        f"train.train_data_loader.sampler={{class_or_func: {own}, kwargs: {{replacement: true}}}}",
        "train.train_data_loader.kwargs.drop_last=true",
    )["train"]["train_data_loader"]
    assert loader["sampler"] == {"class_or_func": RandomSampler, "kwargs": {"replacement": True}}
    assert "batch_sampler" not in loader
    assert loader["kwargs"] == {"num_workers": 0, "batch_size": 4, "drop_last": True}


def test_chunk_rows_reaches_whatever_walks_the_vocabulary(tmp_path):
    shared = form_of(tmp_path, "chunk_rows=64")["train"]["criterion"]["kwargs"]
    assert shared["chunk_rows"] == 64
    assert "chunk_rows" not in shared["sub_terms"]["lens"]["criterion"]["kwargs"]
    alone = form_of(
        tmp_path, "chunk_rows=64", "train.criterion.key=WeightedSumLoss", f"{LENS}.chunk_rows=32"
    )["train"]["criterion"]["kwargs"]
    assert "chunk_rows" not in alone
    assert alone["sub_terms"]["kd"]["criterion"]["kwargs"]["chunk_rows"] == 64
    assert alone["sub_terms"]["lens"]["criterion"]["kwargs"]["chunk_rows"] == 32


def test_foreign_optimizers_and_schedules_are_left_alone(tmp_path):
    train = form_of(
        tmp_path,
        "train.optimizer={key: SGD, kwargs: {lr: 0.1}, max_grad_norm: 2, grad_accum_step: 3}",
        "train.scheduler={key: StepLR, kwargs: {step_size: 3}}",
    )["train"]
    assert train["optimizer"] == {
        "key": "SGD",
        "kwargs": {"lr": 0.1},
        "max_grad_norm": 2.0,
        "grad_accum_step": 3,
    }
    assert train["scheduler"] == {
        "key": "StepLR",
        "kwargs": {"step_size": 3},
        "scheduling_step": 1,
    }


def test_each_call_makes_new_data_since_a_box_changes_it(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path))
    first = full_form(recipe, STUDENT, TEACHER)
    first["train"]["optimizer"]["kwargs"]["lr"] *= 8
    lens = first["train"]["criterion"]["kwargs"]["sub_terms"]["lens"]["criterion"]["kwargs"]
    lens["layers"]["student"].clear()
    second = full_form(recipe, STUDENT, TEACHER)
    assert second["train"]["optimizer"]["kwargs"]["lr"] == 1e-4
    lens = second["train"]["criterion"]["kwargs"]["sub_terms"]["lens"]["criterion"]["kwargs"]
    assert lens["layers"]["student"] == [1, 2]


def test_torchdistill_reads_the_printed_form_back(tmp_path):
    form = form_of(
        tmp_path,
        "datasets.validation={path: b}",
        "mixed_precision=no",
        "train.optimizer.kwargs.lr=1e-7",
        "datasets.train.template='{instruction}\\n\\n{input}: no'",
    )
    printed = tmp_path / "printed.yaml"
    printed.write_text(to_yaml(form), encoding="utf-8")
    assert "class_or_func: !import_get {key: torch.utils.data.SequentialSampler}" in to_yaml(form)
    assert load_yaml_file(str(printed)) == form


def test_a_plain_training_box_takes_the_form(tmp_path):
    """What needs no model: torchdistill's own loader, optimizer, schedule and loss registry."""
    from torchdistill.datasets.util import build_data_loader
    from torchdistill.losses.registry import get_high_level_loss
    from torchdistill.optim.registry import get_optimizer, get_scheduler

    import distillens_plugin  # noqa: F401  (registers)

    class Rows(torch.utils.data.Dataset):
        lengths = (3, 2, 4, 1, 5)

        def __len__(self):
            return 5

        def __getitem__(self, index):
            ids = list(range(self.lengths[index]))
            return {"input_ids": ids, "labels": ids, "id": "x", "pad_id": 0, "max_length": 8}

    train = form_of(tmp_path, "train.scheduler.key=cosine")["train"]
    loader = build_data_loader(Rows(), train["train_data_loader"], distributed=False)
    assert sorted(len(batch["input_ids"]) for batch, _ in loader) == [1, 4]
    optimizer = get_optimizer(
        torch.nn.Linear(2, 2),
        train["optimizer"]["key"],
        **train["optimizer"]["kwargs"],
        filters_params=train["optimizer"]["filters_params"],
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    scheduler = train["scheduler"]
    assert get_scheduler(optimizer, scheduler["key"], **scheduler["kwargs"]).get_last_lr()[0] > 0
    assert set(get_high_level_loss(train["criterion"]).term_dict) == {"kd", "lens"}
