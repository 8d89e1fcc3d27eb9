"""The one file that registers with torchdistill: what the YAML keys of this package name."""

from typing import Any

from torchdistill.core.interfaces.registry import (
    register_forward_proc_func,
    register_post_forward_proc_func,
    register_pre_epoch_proc_func,
)
from torchdistill.datasets.registry import register_batch_sampler, register_collate_func
from torchdistill.losses.registry import (
    register_func2extract_model_output,
    register_high_level_loss,
    register_mid_level_loss,
)
from torchdistill.optim.registry import register_optimizer, register_scheduler

from distillens_plugin.data.collate import collate
from distillens_plugin.data.length_batches import LengthGroupedBatchSampler
from distillens_plugin.integrations.torchdistill import optim, processes
from distillens_plugin.integrations.torchdistill.compat import restore_use_fp16
from distillens_plugin.lens.forward import forward, forward_with_logits
from distillens_plugin.losses.hidden import HiddenCosine, HiddenMSE
from distillens_plugin.losses.lens import CrossEntropy, DistillLensLoss, LogitsKD
from distillens_plugin.losses.similarity import CKA, GramAlignment
from distillens_plugin.losses.weighted_sum import WeightedSum


def no_model_loss(student_outputs: Any, targets: Any, **kwargs: Any) -> dict[str, Any]:
    """`func2extract_model_loss: distillens.no_model_loss`: the models compute no loss."""
    return {}


def register() -> None:
    """Registers every key of this package; calling it again changes nothing."""
    restore_use_fp16()
    register_mid_level_loss(key="DistillLensLoss")(DistillLensLoss)
    register_mid_level_loss(key="distillens.logits_kd")(LogitsKD)
    register_mid_level_loss(key="distillens.cross_entropy")(CrossEntropy)
    register_mid_level_loss(key="distillens.hidden_mse")(HiddenMSE)
    register_mid_level_loss(key="distillens.hidden_cosine")(HiddenCosine)
    register_mid_level_loss(key="distillens.gram")(GramAlignment)
    register_mid_level_loss(key="distillens.cka")(CKA)
    register_high_level_loss(key="distillens.weighted_sum")(WeightedSum)
    register_func2extract_model_output(key="distillens.no_model_loss")(no_model_loss)
    register_forward_proc_func(key="distillens.forward")(forward)
    register_forward_proc_func(key="distillens.forward_with_logits")(forward_with_logits)
    register_pre_epoch_proc_func(key="distillens.pre_epoch")(processes.pre_epoch)
    register_post_forward_proc_func(key="distillens.post_forward")(processes.post_forward)
    register_collate_func(key="distillens.collate")(collate)
    register_batch_sampler(key="distillens.length_grouped")(LengthGroupedBatchSampler)
    register_optimizer(key="distillens.adamw")(optim.adamw)
    register_scheduler(key="distillens.cosine")(optim.cosine)
    register_scheduler(key="distillens.linear")(optim.linear)
    register_scheduler(key="distillens.constant")(optim.constant)
