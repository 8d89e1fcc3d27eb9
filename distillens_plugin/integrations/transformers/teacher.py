"""The teacher beside a Trainer's student: where it is, and that it stays as it is."""

from accelerate import Accelerator
from torch import nn

from distillens_plugin.integrations.transformers.sharding import refuse_empty
from eval_harness.errors import DistillensError


def placed_teacher(teacher: object, accelerator: Accelerator) -> nn.Module | None:
    """The teacher in eval mode on the Trainer's device; the Trainer does not know it.

    One that is quantised or was loaded with a device map stays where it is, and one that is to be
    sharded (`is_to_be_sharded`) where it was loaded.

    Raises:
        DistillensError: not a model, or one without weights.
    """
    if teacher is None:
        return None
    if not isinstance(teacher, nn.Module):
        raise DistillensError(
            f"teacher_model is of type {type(teacher).__name__}, expected a model; load it with "
            "AutoModelForCausalLM.from_pretrained"
        )
    if accelerator.is_fsdp2 and _has_place(teacher) and not _is_quantised(teacher):
        refuse_empty(teacher)
    if not _has_place(teacher) and not accelerator.is_fsdp2:
        teacher.to(accelerator.device)
    config = getattr(teacher, "config", None)
    if config is not None and hasattr(config, "use_cache"):
        # As the Trainer does with the student: a cache that nobody reads costs memory.
        config.use_cache = False
    return teacher.eval()


def is_to_be_sharded(teacher: nn.Module | None, accelerator: Accelerator) -> bool:
    """Whether the teacher goes into pieces, as the student does."""
    return teacher is not None and bool(accelerator.is_fsdp2) and not _has_place(teacher)


def _has_place(teacher: nn.Module) -> bool:
    return getattr(teacher, "hf_device_map", None) is not None or _is_quantised(teacher)


def _is_quantised(teacher: nn.Module) -> bool:
    return (
        getattr(teacher, "is_quantized", False)
        or getattr(teacher, "quantization_method", None) is not None
    )
