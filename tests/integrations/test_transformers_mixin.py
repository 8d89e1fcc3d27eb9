"""DistillLensMixin on Trainers of other kinds, and models that are wrapped or remade."""

import copy

import pytest
import torch
from lens_trainer import TERMS, lens_trainer, pair, rows, weights, widest_gap
from peft import LoraConfig, get_peft_model
from small_models import small_model
from small_tokenizers import byte_level
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, Trainer

from distillens_plugin.integrations.transformers import DistillLensMixin
from distillens_plugin.losses.hidden import HiddenCosine


class FocalTrainer(Trainer):
    """A user's trainer: its loss is the mean over a batch of a weighted cross-entropy."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")[:, 1:]
        outputs = model(**inputs)
        each = cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels, reduction="none")
        loss = (each * (1 - torch.exp(-each))).sum() / (labels != -100).sum()
        return (loss, outputs) if return_outputs else loss


class FocalLensTrainer(DistillLensMixin, FocalTrainer):
    pass


def moved(trainer, model):
    """How far one step moved each weight."""
    before = weights(model)
    trainer.train()
    return {name: value - before[name] for name, value in weights(model).items()}


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2)])
def test_it_adds_the_lens_to_any_trainers_loss(tmp_path, batch, accumulation):
    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    settings |= {"max_steps": 1, "learning_rate": 1.0}
    models = pair()
    plain = lens_trainer(tmp_path, **settings).args
    student = copy.deepcopy(models[0])
    own = moved(FocalTrainer(student, plain, train_dataset=rows()), student)
    student = copy.deepcopy(models[0])
    lens = moved(lens_trainer(tmp_path, models=(student, models[1]), **settings), student)
    student = copy.deepcopy(models[0])
    both = lens_trainer(
        tmp_path,
        models=(student, models[1]),
        trainer=FocalLensTrainer,
        terms={**TERMS, "trainer_loss": 0.3},
        **settings,
    )
    together = moved(both, student)
    summed = {name: lens[name] + 0.3 * own[name] for name in own}
    assert widest_gap(together, summed) < 2e-6
    line = both.state.log_history[0]
    terms = line["lens"] + line["kd"] + 0.5 * line["cross_entropy"]
    assert line["loss"] == pytest.approx(terms + 0.3 * line["trainer_loss"], rel=1e-5)


def test_the_models_own_loss_may_be_one_of_the_terms(tmp_path):
    """transformers' Trainer computes the cross-entropy: by the labels, with its own counts."""
    settings = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    one, other = pair(), pair()
    lens_trainer(tmp_path, models=one, **settings).train()
    terms = {**TERMS, "cross_entropy": 0.0, "trainer_loss": 0.5}
    lens_trainer(tmp_path, models=other, terms=terms, **settings).train()
    assert widest_gap(weights(one[0]), weights(other[0])) < 1e-6


def test_further_terms(tmp_path):
    term = HiddenCosine({"student": [1], "teacher": [1]}, projection="none")
    models = (small_model("llama"), small_model("llama", seed=1))
    trainer = lens_trainer(tmp_path, models=models, given={"terms": {"hidden": (term, 2.0)}})
    trainer.train()
    line = trainer.state.log_history[0]
    terms = line["lens"] + line["kd"] + 0.5 * line["cross_entropy"] + 2.0 * line["hidden"]
    assert line["loss"] == pytest.approx(terms, rel=1e-5)


def test_a_peft_student_learns_and_its_adapter_alone_is_saved(tmp_path):
    models = pair()
    frozen = weights(models[0])
    student = get_peft_model(models[0], LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    trainer = lens_trainer(tmp_path, models=(student, models[1]), max_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in weights(student).items()
        if "lora_" not in name
    }
    assert widest_gap(frozen, after) == 0
    losses = [line["loss"] for line in trainer.state.log_history if "learning_rate" in line]
    assert losses[0] > 0
    assert any(x.abs().max() > 0 for n, x in student.named_parameters() if "lora_B" in n)
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "saved" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"auto_find_batch_size": True},
        {"average_tokens_across_devices": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_change_no_number(tmp_path, settings):
    one, other = pair(), pair()
    lens_trainer(tmp_path, models=one).train()
    lens_trainer(tmp_path, models=other, **settings).train()
    assert widest_gap(weights(one[0]), weights(other[0])) < 1e-6


def test_rows_laid_end_to_end_give_the_gradient_of_the_padded_ones(tmp_path):
    data = [
        {name: column[: 5 + place % 4].tolist() for name, column in row.items()}
        for place, row in enumerate(rows())
    ]
    tokenizer = byte_level()
    both = []
    for collator in (DataCollatorForSeq2Seq(tokenizer), DataCollatorWithFlattening()):
        models = pair(vocab=300)
        lens_trainer(tmp_path, models=models, data=data, given={"data_collator": collator}).train()
        both.append(weights(models[0]))
    assert widest_gap(*both) < 1e-6
    assert widest_gap(both[0], weights(pair(vocab=300)[0])) > 1e-3


def test_the_best_checkpoint_is_chosen_by_a_term(tmp_path):
    held_out = rows(4, seed=5)
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "eval_lens/2-3"}
    settings |= {"greater_is_better": True, "save_strategy": "steps", "save_steps": 1}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
    models = pair()
    trainer = lens_trainer(tmp_path, models=models, eval_data=held_out, **settings)
    trainer.train()
    seen = [x["eval_lens/2-3"] for x in trainer.state.log_history if "eval_lens" in x]
    assert len(set(seen)) == 4
    assert trainer.state.best_metric == max(seen)
    assert trainer.evaluate()["eval_lens/2-3"] == pytest.approx(max(seen), rel=1e-6)


def test_bfloat16_is_close(tmp_path):
    exact, rough = lens_trainer(tmp_path), lens_trainer(tmp_path, bf16=True)
    exact.train()
    rough.train()
    lines = exact.state.log_history[0], rough.state.log_history[0]
    for name in ("loss", "lens", "kd", "cross_entropy"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=2e-2)
    assert lines[1]["kd"] != lines[0]["kd"]


def test_a_model_made_by_model_init_is_the_one_that_is_read(tmp_path):
    made = []

    def make():
        made.append(small_model("llama"))
        return made[-1]

    trainer = lens_trainer(tmp_path, models=(None, pair()[1]), given={"model_init": make})
    trainer.train()
    assert len(made) >= 2
    one = pair()
    lens_trainer(tmp_path, models=one).train()
    assert widest_gap(weights(one[0]), weights(made[-1])) == 0
    assert not made[0].model._forward_hooks
