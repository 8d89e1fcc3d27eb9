"""One pair of models, one order of rows, ten steps: all faces of the lens give the same weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from boxes import load_box_recipe
from small_models import small_model
from small_tokenizers import byte_level
from torch.utils.data import DataLoader
from torchdistill.core.distillation import DistillationBox
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from distillens_plugin import AttachedLens
from distillens_plugin.integrations.transformers import DistillLensArguments, DistillLensTrainer
from distillens_plugin.losses.weighted_sum import named_values

REPO = Path(__file__).resolve().parents[2]
TOKENIZER = byte_level()
QUESTIONS = ["hi", "what is two and two?", "a", "say something", "why", "the sky is", "go", "and?"]
DIALOGUES = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": "x" * (1 + index)}]
    for index, question in enumerate(QUESTIONS)
]
LAYERS = {"student": [1, 2], "teacher": [1, 3]}
BATCH, EPOCHS, RATE = 4, 5, 1e-3
STEPS = EPOCHS * len(DIALOGUES) // BATCH
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": BATCH,
    "max_steps": STEPS,
    "train_sampling_strategy": "sequential",
    "optim": "adamw_torch",
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": STEPS,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


def pair():
    ids = {"bos_token_id": None, "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": 0}
    vocab = len(TOKENIZER)
    student = small_model("llama", layers=3, width=32, vocab=vocab, seed=1, **ids)
    teacher = small_model("llama", layers=4, width=48, vocab=vocab, seed=2, **ids)
    return student, teacher


def rows():
    """The dialogues in tokens; the answer and its end are supervised."""
    made = []
    for dialogue in DIALOGUES:
        prompt, whole = (
            TOKENIZER.apply_chat_template(
                turns, add_generation_prompt=turns is not dialogue, return_dict=False
            )
            for turns in (dialogue[:-1], dialogue)
        )
        assert whole[: len(prompt)] == prompt
        labels = [-100] * len(prompt) + whole[len(prompt) :]
        made.append({"input_ids": whole, "labels": labels})
    return made


def plain_loop(folder):
    student, teacher = pair()
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    loader = DataLoader(rows(), batch_size=BATCH, collate_fn=DataCollatorForSeq2Seq(TOKENIZER))
    lens = AttachedLens(student, teacher, LAYERS, kd={"divergence": "jsd", "beta": 0.5})
    for _ in range(EPOCHS):
        for batch in loader:
            labels = batch.pop("labels")
            student(**batch)
            with torch.no_grad():
                teacher(**batch)
            lens.loss(labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return student, lens.values


def torchdistill_box(folder):
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    (folder / "box.yaml").write_text(re.findall(r"```yaml\n(# box\.yaml.*?)```", readme, re.S)[0])
    recipe = load_box_recipe(folder / "box.yaml")["train"]
    for role, layers in LAYERS.items():
        outputs = [f"model.layers.{layer - 1}" for layer in layers]
        recipe[role]["forward_hook"] = {"output": outputs}
    recipe["optimizer"] |= {"kwargs": {"lr": RATE, "weight_decay": 0.0}, "max_grad_norm": None}
    terms = recipe["criterion"]["kwargs"]["sub_terms"]
    del terms["ce"]
    terms["kd"]["criterion"]["kwargs"] = {"divergence": "jsd", "beta": 0.5}
    terms["lens"]["criterion"]["kwargs"]["layers"] = LAYERS
    recipe["criterion"]["key"] = "distillens.weighted_sum"
    student, teacher = pair()
    box = DistillationBox(
        teacher, student, {"train": rows()}, recipe, torch.device("cpu"), None, False, 1.0, None
    )
    for epoch in range(EPOCHS):
        box.pre_epoch_process(epoch=epoch)
        for batch, targets in box.train_data_loader:
            box.post_forward_process(box.forward_process(batch, targets))
    return student, named_values(box.criterion)


def transformers_trainer(folder):
    student, teacher = pair()
    trainer = DistillLensTrainer(
        model=student,
        teacher_model=teacher,
        distillens=DistillLensArguments(layers="1,2:1,3", kd="jsd", kd_beta=0.5),
        args=TrainingArguments(str(folder), **SETTINGS),
        train_dataset=rows(),
        data_collator=DataCollatorForSeq2Seq(TOKENIZER),
    )
    trainer.train()
    return student, trainer.lens.values


def trl_gkd(folder):
    """Its own loss in place of the term kd."""
    pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset
    from trl_run import LensGKDTrainer, gkd_config

    student, teacher = pair()
    trainer = LensGKDTrainer(
        model=student,
        teacher_model=teacher,
        distillens=DistillLensArguments(layers="1,2:1,3"),
        args=gkd_config(folder, lmbda=0.0, beta=0.5, **SETTINGS),
        train_dataset=Dataset.from_list([{"messages": dialogue} for dialogue in DIALOGUES]),
        processing_class=TOKENIZER,
    )
    trainer.train()
    return student, trainer.lens.values


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    student, values = plain_loop(tmp_path_factory.mktemp("loop"))
    return student.state_dict(), values


@pytest.mark.parametrize("face", [torchdistill_box, transformers_trainer, trl_gkd])
def test_weights_after_ten_steps(tmp_path, reference, face):
    assert STEPS == 10
    weights, values = reference
    student, its_values = face(tmp_path)
    start = pair()[0].state_dict()
    assert max((weights[name] - start[name]).abs().max() for name in weights) > 5e-3
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=0, msg=name)
    # The last step's values, under the same names.
    assert its_values.keys() | {"kd"} == values.keys()
    for name, value in its_values.items():
        torch.testing.assert_close(value, values[name], atol=1e-6, rtol=1e-4, msg=name)
