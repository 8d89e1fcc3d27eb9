"""TRL's GKDTrainer with the lens: the dataset's answers, the student's own, the teacher's."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

from trl.experimental.gkd import GKDTrainer
from trl_run import (
    LensGKDTrainer,
    dialogues,
    distillation_trainer,
    expected_losses,
    gkd_config,
    gkd_trainer,
    is_apart,
    lens_arguments,
    logged,
    student_and_teacher,
    student_as_it_is,
    tokenizer,
    weights,
)

from distillens_plugin.integrations.trl import DistillLensGKDMixin
from eval_harness.errors import DistillensError


class Keeping(LensGKDTrainer):
    """Keeps what each loss was computed on, and what came out."""

    seen = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        before = student_as_it_is(model)
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        self.seen = (*self.seen, (before, dict(inputs), num_items_in_batch, loss.item()))
        return result


def summed(trainer, beta):
    """For each loss so far: what it must be times its divisor, the lens's sum, its tokens."""
    for student, inputs, count, loss in trainer.seen:
        own, lens, found = expected_losses(
            student,
            trainer.teacher_model,
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["labels"],
            own_beta=beta,
        )
        yield loss * float(count), own.item(), lens.item(), found


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_loss_is_trls_own_and_the_weighted_lens(tmp_path, lmbda):
    trainer = gkd_trainer(
        tmp_path,
        kind=Keeping,
        distillens=lens_arguments(lens_weight=0.7),
        lmbda=lmbda,
        beta=0.4,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    seen = list(summed(trainer, 0.4))
    assert len(seen) == 4
    for loss, own, lens, _ in seen:
        assert loss == pytest.approx(own + 0.7 * lens, rel=1e-6)
    # The log has means over tokens also where TRL divides by another count.
    for step, entry in enumerate(logged(trainer, "lens")):
        window = seen[2 * step : 2 * step + 2]
        mean = sum(lens for *_, lens, _ in window) / sum(found for *_, found in window)
        assert entry == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("more", [{"lmbda": 1.0}, {"lmbda": 0.0, "seq_kd": True}])
def test_ten_steps_on_generated_answers(tmp_path, more):
    trainer = gkd_trainer(tmp_path, **more)
    start = weights(trainer.model)
    trainer.train()
    for name in ("lens", "lens/1-1", "lens/2-3"):
        assert len(logged(trainer, name)) == 10, name
    assert (weights(trainer.model) - start).abs().max() > 1e-4


def test_generated_answers_are_padded_on_both_sides(tmp_path):
    """What the comparison above stands on."""
    trainer = gkd_trainer(tmp_path, kind=Keeping, lmbda=1.0, max_steps=1)
    trainer.train()
    mask = trainer.seen[0][1]["attention_mask"]
    assert mask[:, 0].min() == 0
    assert mask[:, -1].min() == 0


def test_generation_leaves_nothing_behind(tmp_path):
    trainer = gkd_trainer(tmp_path, kind=Keeping, lmbda=1.0, max_steps=1)
    trainer.train()
    with pytest.raises(DistillensError, match="the student has not run since the last loss"):
        trainer.lens.loss(trainer.seen[0][1]["labels"])


def test_without_the_lens_gkd_trains_as_ever(tmp_path):
    nothing = lens_arguments(lens_weight=0.0, cross_entropy=1e-30)
    ours = gkd_trainer(tmp_path / "ours", distillens=nothing, lmbda=0.0, max_steps=3)
    lens = gkd_trainer(tmp_path / "lens", lmbda=0.0, max_steps=3)
    student, teacher = student_and_teacher()
    plain = GKDTrainer(
        student,
        teacher,
        gkd_config(tmp_path / "plain", lmbda=0.0, max_steps=3),
        train_dataset=dialogues(),
        processing_class=tokenizer(),
    )
    for trainer in (ours, lens, plain):
        trainer.train()
    assert not is_apart(ours.model, plain.model)
    assert is_apart(lens.model, plain.model)


def test_an_evaluation_takes_nothing_of_the_training_s_log(tmp_path):
    more = {"lmbda": 0.0, "max_steps": 4, "logging_steps": 4, "eval_dataset": dialogues()}
    plain = gkd_trainer(tmp_path / "plain", **more)
    between = gkd_trainer(tmp_path / "between", eval_strategy="steps", eval_steps=3, **more)
    for trainer in (plain, between):
        trainer.train()
    assert len(logged(between, "eval_lens")) == 2
    assert logged(between, "lens") == pytest.approx(logged(plain, "lens"), rel=1e-6)


def test_cross_entropy_on_the_students_own_answers_is_refused(tmp_path):
    taught = lens_arguments(cross_entropy=0.5)
    with pytest.raises(DistillensError, match="would teach the student its own sampled answers"):
        gkd_trainer(tmp_path, distillens=taught, lmbda=0.5)
    with pytest.raises(DistillensError, match="would teach the student its own sampled answers"):
        distillation_trainer(tmp_path, distillens=taught)


def test_evaluation_has_the_same_terms(tmp_path):
    trainer = gkd_trainer(tmp_path, eval_dataset=dialogues(), max_steps=1)
    metrics = trainer.evaluate()
    assert metrics["eval_lens"] > 0
    assert "lens" not in metrics


def test_mixed_into_another_trainer(tmp_path):
    from trl import SFTTrainer

    class Wrong(DistillLensGKDMixin, SFTTrainer):
        pass

    with pytest.raises(DistillensError, match="is for subclasses of GKDTrainer alone"):
        Wrong("model", teacher_model="teacher")
