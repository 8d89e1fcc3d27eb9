"""A teacher whose blocks bitsandbytes has quantised, with a head that it has not."""

import pytest
import torch
from pair import batch, gradients, pair, run_both

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    student, teacher = pair(dtype=torch.float32, tied=False)
    teacher.save_pretrained(folder)
    return student, teacher, folder


def quantised(folder, **how):
    return AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(**how),
        device_map={"": "cpu"},
        dtype=torch.float32,
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_body(models, bits):
    student, whole, folder = models
    ids, labels = batch()
    teacher = quantised(folder, **{f"load_in_{bits}bit": True})
    assert not teacher.model.layers[0].mlp.up_proj.weight.is_floating_point()
    losses = []
    for each in (whole, teacher):
        with AttachedLens(student, each, {"auto": 2}, norm="final", kd="fkl") as lens:
            run_both(student, each, ids)
            loss = lens.loss(labels)
            loss.backward()
            assert gradients(student)
            losses.append(loss.detach())
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.2, atol=0)


def test_a_quantised_head_is_refused(models):
    student, _, folder = models
    teacher = quantised(folder, load_in_8bit=True, llm_int8_skip_modules=[])
    with pytest.raises(DistillensError, match=r"Linear8bitLt has no plain weight.*skip_modules"):
        AttachedLens(student, teacher, {"auto": 2})
