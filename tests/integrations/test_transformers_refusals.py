"""What the lens does not honour in a Trainer is one line before anything runs."""

from types import SimpleNamespace

import pytest
import torch
from lens_trainer import TERMS, lens_trainer, pair, rows
from transformers import Trainer

from distillens_plugin.integrations.transformers import DistillLensTrainer
from distillens_plugin.integrations.transformers.refusals import check_trainer
from distillens_plugin.integrations.transformers.teacher import is_to_be_sharded, placed_teacher
from distillens_plugin.losses.hidden import HiddenMSE
from eval_harness.errors import DistillensError


def refused(folder, **given):
    with pytest.raises(DistillensError) as caught:
        lens_trainer(folder, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor = 0.1, which"),
        ({"label_names": ["targets"]}, r"label_names = ['targets'], expected ['labels']"),
        ({"ddp_static_graph": True}, "ddp_static_graph waits for a gradient"),
        ({"use_liger_kernel": True}, "use_liger_kernel patches the head"),
        (
            {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
            },
            "use_reentrant = True, which cuts the layers off the graph; set it to False",
        ),
    ],
)
def test_settings_of_the_trainer(tmp_path, settings, message):
    line = refused(tmp_path, **settings)
    assert line.startswith("DistillLensTrainer: ")
    assert message in line


@pytest.mark.parametrize(
    ("found", "plugins", "message"),
    [
        ("is_fsdp_xla_enabled", {}, "FSDP on XLA, which splits the weights"),
        ("is_fsdp_enabled", {"fsdp": 1}, "FSDP version 1, which splits the weights"),
        ("is_fsdp_enabled", {"fsdp": 2}, None),
        ("is_fsdp_enabled", {"fsdp": 2, "precision": "fp16"}, "fp16 with models in pieces"),
        ("is_deepspeed_enabled", {"zero": 3}, "ZeRO stage 3, which splits the weights"),
        ("is_deepspeed_enabled", {"zero": 2}, None),
        ("is_distributed_loading_by_transformers", {}, "a model sharded when it was loaded"),
    ],
)
def test_ways_to_split_a_model(tmp_path, found, plugins, message):
    """They need several devices; here a real Trainer is told that it has found them."""
    trainer = lens_trainer(tmp_path)
    state = SimpleNamespace(
        fsdp_plugin=SimpleNamespace(fsdp_version=plugins.get("fsdp")),
        deepspeed_plugin=SimpleNamespace(zero_stage=plugins.get("zero")),
    )
    trainer.accelerator = SimpleNamespace(
        state=state, mixed_precision=plugins.get("precision", "no")
    )
    setattr(trainer, found, True)
    if message is None:
        check_trainer(trainer, uses_own_loss=False)
        return
    with pytest.raises(DistillensError, match=message) as caught:
        check_trainer(trainer, uses_own_loss=False)
    assert str(caught.value).endswith(("use FSDP2 (recipes/accelerate/fsdp2.yaml), or DDP", "bf16"))


def test_a_teacher_that_one_process_has_read(monkeypatch):
    """With models in pieces one that has a place stays whole, and so every process needs it."""
    _, teacher = pair()
    accelerator = SimpleNamespace(is_fsdp2=True)
    assert is_to_be_sharded(teacher, accelerator)
    teacher.hf_device_map = {"": "cpu"}
    assert not is_to_be_sharded(placed_teacher(teacher, accelerator), accelerator)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(DistillensError, match="only one process of a machine has its weights"):
        placed_teacher(teacher, accelerator)


def test_copies_in_one_process(tmp_path):
    trainer = lens_trainer(tmp_path)
    trainer.args._n_gpu = 2
    with pytest.raises(DistillensError, match=r"2 GPUs in one process .* torchrun"):
        check_trainer(trainer, uses_own_loss=False)


def test_a_loss_function_that_would_not_be_called(tmp_path):
    def own(outputs, labels, num_items_in_batch=None):
        return outputs.logits.sum()

    line = refused(tmp_path, given={"compute_loss_func": own})
    assert "compute_loss_func is given, but trainer_loss = 0" in line


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"layers": "1:9"}, "layers.teacher[0] = 9, but the teacher has layers 0 to 4"),
        ({"layers": "auto:5"}, "layers.auto = 5, but the student has 3 blocks"),
        ({"layers": "1:1", "norm": "rms"}, "'rms', expected"),
        ({"layers": "none"}, "there is no loss term"),
        (
            {"layers": "none", "cross_entropy": 1.0, "router_loss": 0.1},
            "a mixture of experts such as Mixtral",
        ),
    ],
)
def test_terms_that_do_not_fit_the_models(tmp_path, terms, message):
    assert message in refused(tmp_path, terms=terms)


def test_a_teacher_that_is_no_model_or_the_student_itself(tmp_path):
    student, teacher = pair()
    line = refused(tmp_path, models=(student, "gpt2"))
    assert line.startswith("teacher_model is of type str, expected a model; load it with")
    with pytest.raises(DistillensError, match=r"distillens is of type dict, expected DistillLensA"):
        DistillLensTrainer(student, distillens={"layers": "auto:2"}, teacher_model=student)
    assert "are one object" in refused(tmp_path, models=(student, student))
    assert "teacher is None" in refused(tmp_path, models=(student, None))
    alone = {"layers": "none", "cross_entropy": 1.0}
    lens_trainer(tmp_path, models=(student, None), terms=alone).train()
    assert teacher is not None


def test_a_term_that_trains_something(tmp_path):
    layers = {"student": [1], "teacher": [1]}
    term = HiddenMSE(layers, projection="per_pair")
    line = refused(tmp_path, given={"terms": {"hidden": (term, 1.0)}})
    assert "terms train 'hidden." in line
    assert "set projection: none, with models of equal width" in line


@pytest.mark.parametrize("use_own", [0.0, 1.0])
def test_a_batch_without_labels(tmp_path, use_own):
    data = [{"input_ids": row["input_ids"]} for row in rows()]
    trainer = lens_trainer(tmp_path, data=data, terms={**TERMS, "trainer_loss": use_own})
    with pytest.raises(DistillensError, match="the batch has no labels, but input_ids; the data"):
        trainer.train()


def test_labels_that_were_shifted_already(tmp_path):
    data = [{**row, "labels": torch.roll(row["input_ids"], -1)} for row in rows()]
    with pytest.raises(DistillensError, match="labels are not shifted"):
        lens_trainer(tmp_path, data=data).train()


def test_a_plain_trainer_refuses_none_of_this(tmp_path):
    """The lines above are the lens's own, not transformers'."""
    student, _ = pair()
    arguments = lens_trainer(tmp_path).args
    arguments.label_smoothing_factor = 0.1
    Trainer(model=student, args=arguments, train_dataset=rows()).train()
    assert issubclass(DistillLensTrainer, Trainer)
