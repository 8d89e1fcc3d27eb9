"""What the lens on TRL's trainers does not honour: one line, before models are loaded."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

from trl import DistillationTrainer
from trl.experimental.server_distillation import (
    ServerDistillationConfig,
    ServerDistillationTrainer,
)
from trl_run import (
    distillation_config,
    distillation_trainer,
    gkd_config,
    gkd_trainer,
    lens_arguments,
    settings,
)

from distillens_plugin.integrations.trl import (
    DistillLensDistillationMixin,
    DistillLensDistillationTrainer,
    DistillLensGKDMixin,
)
from distillens_plugin.integrations.trl.attaching import check_sharding
from eval_harness.errors import DistillensError

# Nothing is loaded: there is no such folder.
NOWHERE = "no/such/folder"


def refused(match, make):
    with pytest.raises(DistillensError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


class OnAServer(DistillLensDistillationMixin, ServerDistillationTrainer):
    """The teacher's logits come from elsewhere."""


def test_a_teacher_on_a_server(tmp_path):
    args = ServerDistillationConfig(
        **settings(tmp_path, teacher_model_server_url="http://localhost:1")
    )
    for make in (lambda: OnAServer(NOWHERE, args=args), lambda: OnAServer(NOWHERE, args)):
        refused("OnAServer: teacher_model_server_url = 'http://localhost:1'", make)


def test_no_teacher(tmp_path):
    args = distillation_config(tmp_path, teacher_model_name_or_path=NOWHERE)
    refused(
        "DistillLensDistillationTrainer: teacher_model is None",
        lambda: DistillLensDistillationTrainer(NOWHERE, None, args),
    )


@pytest.mark.parametrize("kind", ["distillation", "gkd"])
def test_liger(tmp_path, kind):
    make = distillation_trainer if kind == "distillation" else gkd_trainer
    refused("use_liger_kernel", lambda: make(tmp_path, use_liger_kernel=True))


@pytest.mark.parametrize("kind", ["distillation", "gkd"])
def test_reentrant_checkpointing(tmp_path, kind):
    make = distillation_trainer if kind == "distillation" else gkd_trainer
    reentrant = {"use_reentrant": True}
    refused("use_reentrant", lambda: make(tmp_path, gradient_checkpointing_kwargs=reentrant))


def test_router_loss(tmp_path):
    arguments = lens_arguments(router_loss=0.1)
    refused(
        "router_loss = 0.1, but TRL runs the student's body alone",
        lambda: distillation_trainer(tmp_path, distillens=arguments),
    )


def test_layers_that_the_student_does_not_have(tmp_path):
    arguments = lens_arguments(layers="1,9:1,3")
    refused(r"student\[1\] = 9", lambda: distillation_trainer(tmp_path, distillens=arguments))


def test_ways_to_split_a_model(tmp_path):
    """They need several devices; here a real trainer is told that it has found them."""
    trainer = distillation_trainer(tmp_path)
    trainer.accelerator = SimpleNamespace(is_fsdp2=True)
    check_sharding(trainer)
    trainer.tools = [print]
    refused("tools with a student in pieces", lambda: check_sharding(trainer))
    trainer.accelerator.is_fsdp2, trainer.is_deepspeed_enabled = False, True
    refused("DeepSpeed, with which .* use FSDP2", lambda: check_sharding(trainer))


def test_a_trainer_that_goes_around_the_lens(tmp_path):
    class Around(DistillationTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            ids = inputs["completion_ids"]
            return model(input_ids=ids, labels=ids).loss

    class Wrong(DistillLensDistillationMixin, Around):
        pass

    trainer = distillation_trainer(tmp_path, kind=Wrong)
    refused("Wrong: its compute_loss does not call _compute_loss", trainer.train)


def test_mixed_into_a_trainer_that_is_not_gkds(tmp_path):
    class Wrong(DistillLensGKDMixin, DistillationTrainer):
        pass

    refused(
        r"Wrong\(DistillLensGKDMixin, DistillationTrainer\): .* subclasses of GKDTrainer alone",
        lambda: Wrong(NOWHERE, NOWHERE, gkd_config(tmp_path)),
    )


def test_without_trl():
    command = "import sys; sys.modules['trl'] = None; import distillens_plugin.integrations.trl"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: distillens_plugin.integrations.trl: TRL is not installed; pip "
        "install 'distillens[trl]'"
    )
