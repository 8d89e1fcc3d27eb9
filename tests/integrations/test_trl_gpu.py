"""TRL's trainers with the lens on a CUDA device, where TRL's own loss runs in Triton's kernels."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

import torch
from trl_run import distillation_trainer, gkd_trainer, logged, student_and_teacher, weights

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here"
)

PRECISIONS = [{"bf16": False}, {"bf16": True}]


@pytest.mark.parametrize("precision", PRECISIONS, ids=["float32", "bf16"])
def test_distillation_gives_the_terms_of_the_cpu(tmp_path, precision):
    # The same answers everywhere: those of rounding would part after a few tokens.
    def trained(name, **where):
        trainer = distillation_trainer(
            tmp_path / name,
            models=student_and_teacher(dtype=torch.float32),
            max_steps=2,
            max_completion_length=1,
            generation_kwargs={"do_sample": False},
            **where,
        )
        trainer.train()
        return trainer

    here, there = trained("cpu"), trained("cuda", use_cpu=False, **precision)
    assert next(there.model.parameters()).device.type == "cuda"
    for name in ("lens", "lens/1-1", "lens/2-3"):
        assert logged(there, name) == pytest.approx(logged(here, name), rel=3e-2)
    assert weights(there.model).isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS, ids=["float32", "bf16"])
def test_gkd_gives_the_terms_of_the_cpu(tmp_path, precision):
    where = ({}, {"use_cpu": False, **precision})
    here, there = (
        gkd_trainer(
            tmp_path,
            models=student_and_teacher(dtype=torch.float32),
            lmbda=0.0,
            max_steps=2,
            **more,
        )
        for more in where
    )
    here.train()
    there.train()
    assert next(there.model.parameters()).device.type == "cuda"
    assert logged(there, "lens") == pytest.approx(logged(here, "lens"), rel=3e-2)
