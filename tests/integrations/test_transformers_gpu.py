"""DistillLensTrainer on a CUDA device: the numbers of the CPU, in the Trainer's precisions."""

import pytest
import torch
from lens_trainer import lens_trainer, pair, rows, weights, widest_gap

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here"
)


def trained(folder, **settings):
    """The student's weights and the log of the last of four steps, and an evaluation."""
    models = pair()
    trainer = lens_trainer(
        folder, models=models, data=rows(16), eval_data=rows(7, seed=5), max_steps=4, **settings
    )
    trainer.train()
    metrics = trainer.evaluate()
    on = {parameter.device.type for model in models for parameter in model.parameters()}
    (last,) = [line for line in trainer.state.log_history if "learning_rate" in line][-1:]
    return {name: x.cpu() for name, x in weights(models[0]).items()}, last, metrics, on


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("cpu"))


def test_in_float32(tmp_path, on_cpu):
    values, last, metrics, on = trained(tmp_path, use_cpu=False)
    assert on == {"cuda"}
    assert widest_gap(values, on_cpu[0]) < 1e-4
    assert last["lens/2-3"] == pytest.approx(on_cpu[1]["lens/2-3"], rel=1e-3)
    assert metrics["eval_loss"] == pytest.approx(on_cpu[2]["eval_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"fp16": True},
        {"bf16": True, "gradient_checkpointing": True},
        {"bf16": True, "torch_compile": True},
    ],
    ids=["bf16", "fp16", "checkpointing", "compiled"],
)
def test_in_half_precision(tmp_path, on_cpu, settings):
    values, last, metrics, _ = trained(tmp_path, use_cpu=False, **settings)
    for name in ("loss", "lens", "kd", "cross_entropy"):
        assert last[name] == pytest.approx(on_cpu[1][name], rel=3e-2), name
    assert metrics["eval_kd"] == pytest.approx(on_cpu[2]["eval_kd"], rel=3e-2)
    assert all(value.isfinite().all() for value in values.values())
