"""DistillLensTrainer: the loss that is trained on and logged, and what else a Trainer does."""

import copy
from typing import ClassVar

import pytest
import torch
from lens_trainer import TERMS, expected, lens_trainer, pair, rows, supervised, weights, widest_gap
from torch import nn
from transformers import AutoModelForCausalLM

from distillens_plugin.integrations.transformers import DistillLensArguments, DistillLensTrainer
from eval_harness.errors import DistillensError


def training_logs(trainer):
    return [line for line in trainer.state.log_history if "learning_rate" in line]


def test_the_logged_loss_and_terms_are_those_of_the_formula(tmp_path):
    student, teacher = pair()
    data = rows(4)
    trainer = lens_trainer(tmp_path, models=(student, teacher), data=data, max_steps=1)
    before = [copy.deepcopy(model) for model in (student, teacher)]
    trainer.train()
    (line,) = training_logs(trainer)
    for name, value in expected(*before, data).items():
        assert line[name] == pytest.approx(value.item() / supervised(data), rel=1e-5), name


def test_its_gradient_is_that_of_the_formula(tmp_path):
    student, teacher = pair()
    data = rows(4)
    trainer = lens_trainer(tmp_path, models=(student, teacher), data=data, max_steps=1)
    before = copy.deepcopy(student)
    trainer.train()
    loss = expected(before, copy.deepcopy(teacher), data)["loss"] / supervised(data)
    loss.backward()
    for name, parameter in before.named_parameters():
        moved = (parameter.detach() - student.get_parameter(name)) / 0.1
        torch.testing.assert_close(moved.double(), parameter.grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 2), (1, 4)])
def test_accumulated_batches_give_the_gradient_of_the_whole(tmp_path, batch, accumulation):
    students = []
    for size, steps in ((4, 1), (batch, accumulation)):
        models = pair()
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        # A rate of 1: the weights move by the gradient.
        trainer = lens_trainer(tmp_path, models=models, max_steps=1, learning_rate=1.0, **settings)
        trainer.train()
        students.append((weights(models[0]), training_logs(trainer)))
    (one, its_logs), (other, other_logs) = students
    assert widest_gap(one, weights(pair()[0])) > 1e-3
    assert widest_gap(one, other) < 1e-6
    for ours, theirs in zip(its_logs, other_logs, strict=True):
        names = ("loss", "lens", "lens/1-1", "lens/2-3", "kd", "cross_entropy")
        assert [theirs[n] for n in names] == pytest.approx([ours[n] for n in names], rel=1e-5)


def test_a_log_line_is_the_mean_of_its_steps(tmp_path):
    every = lens_trainer(tmp_path, max_steps=6)
    every.train()
    third = lens_trainer(tmp_path, max_steps=6, logging_steps=3)
    third.train()
    single, joined = training_logs(every), training_logs(third)
    assert (len(single), len(joined)) == (6, 2)
    for name in ("loss", "lens", "lens/2-3", "kd", "cross_entropy"):
        for place, line in enumerate(joined):
            mean = sum(one[name] for one in single[3 * place : 3 * place + 3]) / 3
            assert line[name] == pytest.approx(mean, rel=1e-5), name
    assert single[0]["lens"] != pytest.approx(single[5]["lens"], rel=1e-4)


def test_an_evaluation_has_the_same_loss_and_does_not_disturb_the_training_log(tmp_path):
    data, held_out = rows(8), rows(7, seed=5)
    settings = {"max_steps": 4, "logging_steps": 4}
    plain = lens_trainer(tmp_path, data=data, **settings)
    plain.train()
    models = pair()
    trainer = lens_trainer(
        tmp_path,
        models=models,
        data=data,
        eval_data=held_out,
        eval_strategy="steps",
        eval_steps=1,
        **settings,
    )
    trainer.train()
    assert training_logs(trainer) == training_logs(plain)
    (last,) = [line for line in trainer.state.log_history if "eval_loss" in line][-1:]
    # As the Trainer does: the mean over rows of their batches' means.
    means = {}
    for part in (held_out[:4], held_out[4:]):
        for name, value in expected(*(copy.deepcopy(m) for m in models), part).items():
            share = len(part) / len(held_out) / supervised(part)
            means[name] = means.get(name, 0.0) + share * value.item()
    for name, value in means.items():
        assert last[f"eval_{name}"] == pytest.approx(value, rel=1e-5), name


def test_prediction_gives_the_logits_that_were_asked_for(tmp_path):
    models = pair()
    data = rows(6)
    trainer = lens_trainer(tmp_path, models=models)
    predicted = trainer.predict(data)
    assert predicted.predictions.shape == (6, 9, 64)
    ids = torch.stack([row["input_ids"] for row in data])
    with torch.no_grad():
        logits = models[0](ids).logits
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), logits)
    assert predicted.metrics["test_lens"] > 0
    without = [{"input_ids": row["input_ids"]} for row in data]
    again = trainer.predict(without)
    assert again.predictions.shape == (6, 9, 64)
    assert "test_lens" not in again.metrics


@pytest.mark.parametrize("headless", [True, False])
def test_metrics_of_ones_own_get_logits(tmp_path, headless):
    seen = []

    def accuracy(prediction):
        seen.append(prediction.predictions.shape)
        return {"size": prediction.predictions.size}

    trainer = lens_trainer(
        tmp_path,
        terms={**TERMS, "headless": headless},
        eval_data=rows(5),
        given={"compute_metrics": accuracy},
    )
    metrics = trainer.evaluate()
    assert seen == [(5, 9, 64)]
    assert metrics["eval_size"] == 5 * 9 * 64
    assert metrics["eval_lens"] > 0


class CountingHead(nn.Linear):
    """A head that keeps how many positions it was asked for."""

    asked: ClassVar[list[int]] = []

    def forward(self, hidden):
        self.asked.append(hidden.shape[1])
        return super().forward(hidden)


def test_the_models_make_no_logits_unless_they_are_needed(tmp_path):
    models = pair()
    for model in models:
        model.lm_head.__class__ = CountingHead
    trainer = lens_trainer(tmp_path, models=models, max_steps=1, eval_data=rows(4))
    CountingHead.asked.clear()
    trainer.train()
    trainer.evaluate()
    assert CountingHead.asked == [0] * 4
    CountingHead.asked.clear()
    trainer.predict(rows(4))
    assert CountingHead.asked == [9, 0]  # nobody reads the teacher's


def test_a_hook_that_reads_the_logits_is_given_them_or_refused(tmp_path):
    models, shapes = pair(), []
    models[0].lm_head.register_forward_hook(lambda m, a, out: shapes.append(out.shape))
    with pytest.raises(DistillensError, match="leave headless out"):
        lens_trainer(tmp_path, models=models).train()
    shapes.clear()
    lens_trainer(tmp_path, models=models, terms={**TERMS, "headless": False}, max_steps=1).train()
    assert shapes[-1] == (4, 9, 64)


def test_it_resumes_as_a_trainer_does(tmp_path):
    data = rows(24)
    settings = {"data": data, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    settings |= {"train_sampling_strategy": "random", "optim": "adamw_torch", "logging_steps": 3}
    whole = pair()
    trainer = lens_trainer(tmp_path / "whole", models=whole, **settings)
    trainer.train()
    resumed = pair()
    again = lens_trainer(tmp_path / "again", models=resumed, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "out" / "checkpoint-3"))
    assert widest_gap(weights(whole[0]), weights(resumed[0])) == 0
    assert again.state.log_history[-2]["lens"] == trainer.state.log_history[-2]["lens"]


def test_only_the_student_is_saved_and_it_loads_plainly(tmp_path):
    models = pair()
    teacher_before = weights(models[1])
    trainer = lens_trainer(tmp_path, models=models)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert widest_gap(weights(models[0]), weights(loaded)) == 0
    assert sum(1 for _ in (tmp_path / "saved").glob("*.safetensors")) == 1
    assert widest_gap(weights(models[1]), teacher_before) == 0
    assert not models[1].training
    assert all(p.grad is None for p in models[1].parameters())
    trainer.lens.remove()
    torch.save(models[0], tmp_path / "whole.pt")


def test_a_step_with_nothing_supervised_moves_nothing(tmp_path):
    data = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows(4)]
    models = pair()
    before = weights(models[0])
    trainer = lens_trainer(tmp_path, models=models, data=data, max_steps=1)
    trainer.train()
    assert widest_gap(before, weights(models[0])) == 0
    (line,) = training_logs(trainer)
    assert (line["loss"], line["lens"], line["kd"]) == (0, 0, 0)


def test_two_defaults_suffice(tmp_path):
    student, teacher = pair()
    arguments = lens_trainer(tmp_path).args
    trainer = DistillLensTrainer(
        model=student,
        args=arguments,
        train_dataset=rows(),
        teacher_model=teacher,
        distillens=DistillLensArguments(layers="auto:2"),
    )
    trainer.train()
    assert set(trainer.lens.values) == {"lens", "lens/1-1", "lens/2-3"}
