"""Packed rows give the losses and gradients of padded ones, in every architecture that can."""

from types import SimpleNamespace

import pytest
import torch
from boxes import VOCABULARY, Rows
from small_models import ARCHITECTURES, small_model
from torch.utils.data import SequentialSampler
from torchdistill.core.distillation import DistillationBox

from distillens_plugin import AttachedLens
from distillens_plugin.data.collate import collate
from distillens_plugin.data.packing import PackedDataset
from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.lens.layers import forward_hook_config
from distillens_plugin.lens.packing_check import check_packing

PAIRS = {"student": [1, 2], "teacher": [2, 3]}
# Refused: see tests/lens/test_packing_check.py.
MIXES_ROWS = ("opt", "opt_projected", "opt_post_norm")


def box_of(student, teacher):
    """Cross-entropy, KD and lens in one sum."""

    def side(model, layers):
        hooks = forward_hook_config(layers, find_anatomy(model).blocks)
        return {"forward_proc": "distillens.forward", "forward_hook": hooks}

    keys = {
        "ce": ("distillens.cross_entropy", {}),
        "kd": ("distillens.logits_kd", {"divergence": "fkl"}),
        "lens": ("DistillLensLoss", {"layers": PAIRS, "norm": "final"}),
    }
    terms = {
        name: {"criterion": {"key": key, "kwargs": kwargs}, "weight": 1.0}
        for name, (key, kwargs) in keys.items()
    }
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": False,
            "collate_fn": "distillens.collate",
            "sampler": {"class_or_func": SequentialSampler},
            "kwargs": {"batch_size": 2},
        },
        "val_data_loader": {},
        "teacher": {**side(teacher, PAIRS["teacher"]), "requires_grad": False},
        "student": side(student, PAIRS["student"]),
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.0}},
        "criterion": {
            "key": "distillens.weighted_sum",
            "kwargs": {"sub_terms": terms},
            "func2extract_model_loss": "distillens.no_model_loss",
        },
        "pre_epoch_process": "distillens.pre_epoch",
        "post_forward_process": "distillens.post_forward",
    }
    box = DistillationBox(
        teacher, student, {"train": Rows()}, config, torch.device("cpu"), None, False, 1.0
    )
    box.pre_epoch_process(epoch=0)
    student.eval()
    return box


def loss_and_gradients(box, student, examples):
    student.zero_grad()
    loss = box.forward_process(*collate(examples))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters()}
    return SimpleNamespace(loss=loss.item(), gradients=gradients)


def assert_packing_changes_nothing(student, teacher, num_rows=9):
    rows = Rows(num_rows)
    packs = PackedDataset(rows, 40, seed=2)
    assert len(packs) < num_rows
    box = box_of(student, teacher)
    padded = loss_and_gradients(box, student, [rows[index] for index in range(num_rows)])
    packed = loss_and_gradients(box, student, [packs[index] for index in range(len(packs))])
    assert packed.loss == pytest.approx(padded.loss, abs=1e-5)
    for name, gradient in padded.gradients.items():
        assert torch.allclose(packed.gradients[name], gradient, atol=1e-5, rtol=1e-4), name
    assert any(gradient.abs().max() > 1e-2 for gradient in padded.gradients.values())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXES_ROWS])
def test_losses_and_gradients_equal_those_of_padded_rows(name):
    teacher = small_model(name, layers=3, vocab=VOCABULARY, seed=1)
    student = small_model(name, layers=2, vocab=VOCABULARY, seed=2)
    for model in (student, teacher):
        check_packing(model, role="student", where="here")
    assert_packing_changes_nothing(student, teacher)


def test_with_sdpa_too():
    models = [small_model("llama", layers=n, vocab=VOCABULARY, seed=n) for n in (2, 3)]
    for model in models:
        model.set_attn_implementation("sdpa")
    assert_packing_changes_nothing(*models)


def test_windows_of_attention_slide_within_a_row():
    models = [
        small_model("mistral", layers=n, vocab=VOCABULARY, seed=n, sliding_window=3) for n in (2, 3)
    ]
    assert_packing_changes_nothing(*models)


def test_packs_may_be_longer_than_a_model_has_positions():
    models = [
        small_model("gpt2", layers=n, vocab=VOCABULARY, seed=n, n_positions=16) for n in (2, 3)
    ]
    assert_packing_changes_nothing(*models)


def test_an_attached_lens_takes_packs_as_they_are():
    teacher = small_model("llama", layers=3, vocab=VOCABULARY, seed=1)
    student = small_model("llama", layers=2, vocab=VOCABULARY, seed=2)
    rows = Rows(9)
    packs = PackedDataset(rows, 40, seed=2)
    found = []
    with AttachedLens(student, teacher, PAIRS, norm="final", kd="fkl", cross_entropy=0.5) as lens:
        for examples in (
            [rows[index] for index in range(9)],
            [packs[index] for index in range(len(packs))],
        ):
            batch, targets = collate(examples)
            student.zero_grad()
            student(**batch, use_cache=False)
            with torch.no_grad():
                teacher(**batch, use_cache=False)
            lens.loss(targets["labels"]).backward()
            values = {name: value.item() for name, value in lens.values.items()}
            found.append((values, student.lm_head.weight.grad.clone()))
    (padded, left), (packed, right) = found
    assert packed == pytest.approx(padded, abs=1e-5)
    assert torch.allclose(right, left, atol=1e-5, rtol=1e-4)
