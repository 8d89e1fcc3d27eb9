"""torchdistill's own losses and its own training loop around `distillens.forward`."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from boxes import build_box, build_models, load_box_recipe
from peft import LoraConfig, get_peft_model
from small_models import small_model, token_batch
from torch import nn
from torchdistill.core.training import TrainingBox

from distillens_plugin.data.collate import collate
from distillens_plugin.lens.forward import forward, forward_with_logits
from eval_harness.errors import DistillensError

REPO = Path(__file__).resolve().parents[2]
STOCK = {
    "mse": """
        criterion:
          key: MSELoss
          kwargs: {reduction: mean}
        criterion_wrapper:
          key: SimpleLossWrapper
          kwargs:
            input: {is_from_teacher: false, module_path: PATH, io: output}
            target: {is_from_teacher: true, module_path: PATH, io: output}
        weight: 1.0
""",
    "kd": """
        criterion:
          key: KDLoss
          kwargs:
            {student_module_path: PATH, student_module_io: output, teacher_module_path: PATH,
             teacher_module_io: output, temperature: 2.0, alpha: 0.0, reduction: batchmean}
        weight: 1.0
""",
}


@pytest.fixture
def recipe(tmp_path):
    """box.yaml of the README."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(# box\.yaml.*?)```", readme, re.DOTALL)
    assert block, "the README shows no box.yaml"
    path = tmp_path / "box.yaml"
    path.write_text(block.group(1), encoding="utf-8")
    return load_box_recipe(path)


def with_stock_loss(recipe: dict[str, Any], kind: str, path: str = "lm_head") -> dict[str, Any]:
    term = yaml.safe_load(STOCK[kind].replace("PATH", path))
    recipe["train"]["criterion"]["kwargs"]["sub_terms"] = {"stock": term}
    for role in ("student", "teacher"):
        if path != ".":
            recipe["train"][role]["forward_hook"]["output"].append(path)
    return recipe


def first_batch(box):
    return next(iter(box.train_data_loader))


@torch.no_grad()
def own_logits(box, batch):
    return [model.eval()(**batch).logits for model in (box.student_model, box.teacher_model)]


@pytest.mark.parametrize("kind", list(STOCK))
def test_a_stock_loss_on_the_heads_output_reads_all_logits(recipe, kind):
    box = build_box(with_stock_loss(recipe, kind))
    batch, targets = first_batch(box)
    with pytest.warns(UserWarning, match="a hook on 'lm_head' of GPT2LMHeadModel sees the logits"):
        loss = box.forward_process(batch, targets)
    with torch.no_grad():
        student, teacher = (
            m.eval()(**batch).logits for m in (box.student_model, box.teacher_model)
        )
    if kind == "mse":
        expected = nn.functional.mse_loss(student, teacher)
    else:
        expected = nn.functional.kl_div(
            (student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean"
        )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once for each model
        box.forward_process(batch, targets)


def test_a_stock_loss_beside_the_lens_leaves_the_lens_as_it_is(recipe):
    alone = build_box(recipe)
    batch, targets = first_batch(alone)
    expected = alone.forward_process(batch, targets)
    term = yaml.safe_load(STOCK["mse"].replace("PATH", "lm_head"))
    recipe["train"]["criterion"]["kwargs"]["sub_terms"]["stock"] = term
    for role in ("student", "teacher"):
        recipe["train"][role]["forward_hook"]["output"].append("lm_head")
    box = build_box(recipe)
    with pytest.warns(UserWarning, match="sees the logits"):
        loss = box.forward_process(batch, targets)
    with torch.no_grad():
        student, teacher = (
            m.eval()(**batch).logits for m in (box.student_model, box.teacher_model)
        )
    torch.testing.assert_close(loss, expected + nn.functional.mse_loss(student, teacher))


@pytest.mark.parametrize("kind", list(STOCK))
def test_a_stock_loss_on_the_output_itself_is_refused(recipe, kind):
    box = build_box(with_stock_loss(recipe, kind, "."))
    with pytest.raises(DistillensError, match=r"forward_hook: \{output: \[lm_head\]\}"):
        box.forward_process(*first_batch(box))


def test_logits_that_were_not_kept_are_refused_by_name():
    model = small_model("gpt2")
    ids = token_batch()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(DistillensError, match=r"forward_proc: distillens\.forward_with_logits"):
        _ = forward(model, batch).logits
    assert forward_with_logits(model, batch).logits.shape == (2, 7, 64)


def wrapped(kind: str) -> tuple[nn.Module, str]:
    """A model and the path of its head on it."""
    model = small_model("llama", tied=False)
    if kind == "plain":
        return model, "lm_head"
    if kind == "compiled":
        return torch.compile(model, backend="eager"), "_orig_mod.lm_head"  # type: ignore[return-value]
    target = ["lm_head"] if kind == "lora on the head" else ["q_proj"]
    inner = "lm_head.base_layer" if kind == "lora on the head" else "lm_head"
    return get_peft_model(model, LoraConfig(target_modules=target)), f"base_model.model.{inner}"


@pytest.mark.parametrize("kind", ["plain", "compiled", "lora", "lora on the head"])
@pytest.mark.parametrize("place", ["head", "parent", "model"])
def test_hooks_of_ones_own_see_the_logits_wherever_they_are(kind, place):
    model, path = wrapped(kind)
    if place == "parent":
        path = path.rpartition(".lm_head")[0]
    ids = token_batch()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    forward(model, batch)  # before the hook is there, the model runs without its head
    seen = []
    hooked = model if place == "model" else model.get_submodule(path)
    hooked.register_forward_hook(lambda module, args, output: seen.append(output))
    with pytest.warns(UserWarning, match="sees the logits"):
        forward(model, batch)
    found = seen[-1] if place == "head" else seen[-1].logits
    assert found.shape == (2, 7, 64)


def test_hooks_elsewhere_leave_the_model_without_its_head():
    model = small_model("gpt2")
    ids = token_batch()
    seen = []
    for path in ("transformer", "transformer.h.1", "transformer.ln_f"):
        model.get_submodule(path).register_forward_hook(lambda *_: None)
    model.lm_head.forward = lambda rows, own=model.lm_head.forward: seen.append(rows) or own(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert seen[-1].shape[1] == 0


def example_loop(box, batches) -> list[float]:
    """As torchdistill's own examples for transformers train: no targets beside the batch."""
    losses = []
    box.pre_epoch_process(epoch=0)
    for batch in batches:
        loss = box.forward_process(batch, targets=None, supp_dict=None)
        losses.append(loss.item())
        box.post_forward_process(loss=loss)
    box.post_epoch_process()
    return losses


@pytest.mark.parametrize("key", ["WeightedSumLoss", "distillens.weighted_sum"])
@pytest.mark.parametrize("form", ["labels in the batch", "a pair as the batch"])
def test_a_loop_without_targets_trains_as_one_with_them(recipe, key, form):
    recipe["train"]["criterion"]["key"] = key
    box = build_box(recipe)
    box.pre_epoch_process(epoch=0)
    given = list(box.train_data_loader)
    expected = []
    for batch, targets in given:
        loss = box.forward_process(batch, targets)
        expected.append(loss.item())
        box.post_forward_process(loss=loss)
    inside = [
        {**batch, "labels": targets["labels"]} if form.startswith("labels") else (batch, targets)
        for batch, targets in given
    ]
    assert len(inside) > 1
    assert example_loop(build_box(recipe), inside) == expected
    assert "labels" not in given[0][0]


def test_hidden_terms_take_the_labels_from_the_batch_too(recipe):
    term = {
        "criterion": {"key": "distillens.hidden_mse", "kwargs": {"layers": {"auto": 1}}},
        "weight": 1.0,
    }
    recipe["train"]["criterion"]["kwargs"]["sub_terms"]["hidden"] = term
    values = []
    for inside in (False, True):
        box = build_box(recipe)
        box.pre_epoch_process(epoch=0)
        batch, targets = first_batch(box)
        given = ({**batch, "labels": targets["labels"]}, None) if inside else (batch, targets)
        values.append(box.forward_process(*given).item())
    assert values[0] == values[1]


def test_a_training_box_takes_the_labels_from_the_batch(recipe):
    ce = {"key": "distillens.cross_entropy", "kwargs": {}}
    train = {
        **recipe["train"],
        "criterion": {
            **recipe["train"]["criterion"],
            "kwargs": {"sub_terms": {"ce": {"criterion": ce, "weight": 1.0}}},
        },
        "model": recipe["train"]["student"],
    }
    box = build_box(recipe)
    batch, targets = first_batch(box)
    _, model = build_models()
    training = TrainingBox(
        model,
        {"train": box.train_data_loader.dataset},
        train,
        torch.device("cpu"),
        None,
        False,
        1.0,
    )
    loss = training.forward_process({**batch, "labels": targets["labels"]}, None, None)
    with torch.no_grad():
        expected = model(**batch, labels=targets["labels"]).loss
    torch.testing.assert_close(loss, expected)


def test_the_boxs_targets_go_before_labels_in_the_batch(recipe):
    box = build_box(recipe)
    batch, targets = first_batch(box)
    expected = box.forward_process(batch, targets)
    other = torch.full_like(batch["input_ids"], -100)
    assert box.forward_process({**batch, "labels": other}, targets) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch, "found none, expected a .* labels inside the batch"),
        (
            lambda batch: {**batch, "labels": torch.tensor([1, 0, 1, 0])},
            r"the batch has labels of shape \[4\], expected that of its input_ids, \[4, 16\]",
        ),
        (lambda batch: {**batch, "labels": [[1]]}, "the batch has labels of shape list"),
        (lambda batch: batch["input_ids"], "takes a batch with input_ids.*found Tensor"),
        (lambda batch: {"ids": 1}, "takes a batch with input_ids.*found dict"),
    ],
)
def test_batches_that_cannot_be_used_are_refused_in_one_line(recipe, change, message):
    box = build_box(recipe)
    batch, _ = first_batch(box)
    with pytest.raises(DistillensError, match=message) as caught:
        box.forward_process(change(batch), None, None)
    assert "\n" not in str(caught.value)


def test_rows_without_ids_train_in_a_box(recipe):
    class Bare(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_ids": list(range(3, 12)), "labels": [-100] * 4 + list(range(7, 12))}

    box = build_box(recipe, dataset=Bare())
    batch, targets = first_batch(box)
    assert targets["row_ids"] == ["0", "1", "2", "3"]
    assert box.forward_process(batch, targets).isfinite()
    assert collate([Bare()[0]])[1]["row_ids"] == ["0"]
