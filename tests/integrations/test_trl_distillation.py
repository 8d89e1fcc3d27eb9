"""TRL's DistillationTrainer with the lens: real training, on answers that the student writes."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

import torch
from safetensors.torch import load_file
from trl import DistillationTrainer
from trl_run import (
    distillation_config,
    distillation_trainer,
    expected_losses,
    is_apart,
    lens_arguments,
    logged,
    prompts,
    student_and_teacher,
    student_as_it_is,
    tokenizer,
    weights,
)

from distillens_plugin.integrations.trl import DistillLensDistillationTrainer
from distillens_plugin.integrations.trl.attaching import completion_labels
from eval_harness.errors import DistillensError

GREEDY = {"do_sample": False}


class Keeping(DistillLensDistillationTrainer):
    """Keeps what each loss was computed on, and what came out."""

    seen = ()

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        before = student_as_it_is(unwrapped_student)
        result = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        self.seen = (*self.seen, (before, inputs, num_items_in_batch, result[0].item()))
        return result


def rows(inputs):
    """Ids, attention mask and labels of TRL's batch."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : inputs["prompt_ids"].shape[1]] = -100
    return ids, mask, labels


def test_ten_steps_log_every_term_and_train(tmp_path):
    trainer = distillation_trainer(tmp_path)
    start = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 10
    for name in ("lens", "lens/1-1", "lens/2-3", "entropy"):
        assert len(logged(trainer, name)) == 10, name
    of_pairs = torch.tensor([logged(trainer, "lens/1-1"), logged(trainer, "lens/2-3")])
    assert logged(trainer, "lens") == pytest.approx(of_pairs.mean(0).tolist())
    assert (weights(trainer.model) - start).abs().max() > 1e-4


@pytest.mark.parametrize("own_beta", [1.0, 0.4])
def test_loss_is_trls_own_and_the_weighted_lens(tmp_path, own_beta):
    trainer = distillation_trainer(
        tmp_path,
        kind=Keeping,
        distillens=lens_arguments(lens_weight=0.7),
        beta=own_beta,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    assert len(trainer.seen) == 4
    window = []
    for student, inputs, count, loss in trainer.seen:
        own, lens, found = expected_losses(
            student, trainer.teacher_model, *rows(inputs), own_beta=own_beta
        )
        assert loss == pytest.approx(((own + 0.7 * lens) / count).item(), rel=1e-6)
        window.append((lens.item(), found))
    # The log has the mean over the accumulation window's tokens.
    for step, entry in enumerate(logged(trainer, "lens")):
        (first, n), (second, m) = window[2 * step : 2 * step + 2]
        assert entry == pytest.approx((first + second) / (n + m), rel=1e-6)


def test_a_step_follows_the_gradient_of_that_loss(tmp_path):
    """Through gradient checkpointing, which TRL switches on."""
    trainer = distillation_trainer(
        tmp_path, kind=Keeping, max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0
    )
    assert trainer.args.gradient_checkpointing
    trainer.train()
    student, inputs, *_ = trainer.seen[0]
    before = weights(student)
    own, lens, found = expected_losses(student, trainer.teacher_model, *rows(inputs), own_beta=1.0)
    ((own + lens) / found).backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert torch.allclose(weights(trainer.model), before - 0.1 * gradient, rtol=0, atol=1e-7)


def test_prompts_and_completions_of_many_lengths_were_padded(tmp_path):
    """What the comparison above stands on."""
    trainer = distillation_trainer(tmp_path, kind=Keeping, max_steps=1)
    trainer.train()
    inputs = trainer.seen[0][1]
    assert inputs["prompt_mask"][:, 0].min() == 0
    assert inputs["completion_mask"][:, -1].min() == 0


def test_accumulation_does_not_change_the_training(tmp_path):
    whole = distillation_trainer(tmp_path / "4x1", max_steps=4, generation_kwargs=GREEDY)
    parts = distillation_trainer(
        tmp_path / "2x2",
        max_steps=4,
        generation_kwargs=GREEDY,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    whole.train()
    parts.train()
    assert torch.allclose(weights(whole.model), weights(parts.model), rtol=0, atol=1e-6)
    assert logged(whole, "lens") == pytest.approx(logged(parts, "lens"), abs=1e-6)


def test_lens_weight_of_zero_and_no_lens_at_all_train_alike(tmp_path):
    """TRL's own loss is left as it is."""
    own = lens_arguments(lens_weight=0.0, kd="fkl", kd_weight=1e-30)
    more = {"max_steps": 3, "generation_kwargs": GREEDY}
    ours = distillation_trainer(tmp_path / "ours", distillens=own, **more)
    student, teacher = student_and_teacher()
    plain = DistillationTrainer(
        student,
        teacher,
        distillation_config(tmp_path / "plain", **more),
        train_dataset=prompts(),
        processing_class=tokenizer(),
    )
    lens = distillation_trainer(tmp_path / "lens", **more)
    for trainer in (ours, plain, lens):
        trainer.train()
    assert not is_apart(ours.model, plain.model)
    assert is_apart(lens.model, plain.model)


def test_trls_own_loss_can_be_left_out(tmp_path):
    only = lens_arguments(trainer_loss=0.0)
    trainer = distillation_trainer(tmp_path, kind=Keeping, distillens=only, max_steps=1)
    trainer.train()
    assert trainer.seen[0][3] == pytest.approx(logged(trainer, "lens")[0], rel=1e-6)


def test_generation_leaves_nothing_behind(tmp_path):
    trainer = distillation_trainer(tmp_path, max_steps=1)
    trainer.train()
    prompt_ids, completion_ids, *_ = trainer._generate([row["prompt"] for row in prompts()])
    assert len(completion_ids) == 8
    labels = torch.tensor([prompt_ids[0] + completion_ids[0]])
    with pytest.raises(DistillensError, match="the student has not run since the last loss"):
        trainer.lens.loss(labels)


def test_evaluation_has_the_same_terms(tmp_path):
    trainer = distillation_trainer(tmp_path, eval_dataset=prompts(), max_steps=1)
    metrics = trainer.evaluate()
    assert metrics["eval_lens"] > 0
    assert metrics["eval_lens/2-3"] > 0
    assert "lens" not in metrics
    trainer.train()
    assert len(logged(trainer, "lens")) == 1


def test_models_named_by_path_in_bfloat16_as_is_trls_default(tmp_path):
    student, teacher = student_and_teacher(dtype=torch.float32)
    student.save_pretrained(tmp_path / "student")
    teacher.save_pretrained(tmp_path / "teacher")
    models = (str(tmp_path / "student"), str(tmp_path / "teacher"))
    trainer = distillation_trainer(tmp_path / "out", models=models, max_steps=2, bf16=True)
    trainer.train()
    assert len(logged(trainer, "lens")) == 2
    assert 0 < logged(trainer, "lens")[0] < 1


def test_a_student_with_an_adapter(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    trainer = distillation_trainer(tmp_path, peft_config=lora, max_steps=2)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert moved
    assert all("lora_" in name for name in moved)
    assert len(logged(trainer, "lens")) == 2


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt_projected"])
def test_other_architectures(tmp_path, name):
    trainer = distillation_trainer(
        tmp_path, models=student_and_teacher(name, torch.float32), max_steps=1
    )
    trainer.train()
    assert logged(trainer, "lens")[0] > 0


def test_answers_of_tools_are_not_supervised():
    inputs = {
        "prompt_ids": torch.tensor([[9, 5], [5, 6]]),
        "completion_ids": torch.tensor([[1, 2, 3], [4, 9, 9]]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "tool_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
    }
    expected = [[-100, -100, 1, -100, 3], [-100, -100, 4, -100, -100]]
    assert completion_labels(inputs).tolist() == expected


class FromElsewhere(DistillLensDistillationTrainer):
    """As with use_vllm, only who writes the answers differs."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        return [[65, 66, 67]] * len(prompt_ids)


def test_answers_that_are_written_elsewhere(tmp_path):
    trainer = distillation_trainer(tmp_path, kind=FromElsewhere, max_steps=2)
    trainer.train()
    assert [entry["lens"] > 0 for entry in trainer.state.log_history[:2]] == [True, True]


def test_resuming_gives_the_weights_of_a_run_that_was_not_interrupted(tmp_path):
    more = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole, again = (distillation_trainer(tmp_path, **more) for _ in range(2))
    whole.train()
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert saved.keys() <= whole.model.state_dict().keys()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not is_apart(whole.model, again.model)
