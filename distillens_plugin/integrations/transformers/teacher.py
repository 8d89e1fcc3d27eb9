"""The teacher beside a Trainer's student: where it is, and that it stays as it is."""

from torch import nn
from transformers import TrainingArguments

from eval_harness.errors import DistillensError


def placed_teacher(teacher: object, args: TrainingArguments) -> nn.Module | None:
    """The teacher in eval mode on the Trainer's device; the Trainer does not know it.

    One that is quantised or was loaded with a device map stays where it is.

    Raises:
        DistillensError: not a model.
    """
    if teacher is None:
        return None
    if not isinstance(teacher, nn.Module):
        raise DistillensError(
            f"teacher_model is of type {type(teacher).__name__}, expected a model; load it with "
            "AutoModelForCausalLM.from_pretrained"
        )
    has_place = (
        getattr(teacher, "hf_device_map", None) is not None
        or getattr(teacher, "is_quantized", False)
        or getattr(teacher, "quantization_method", None) is not None
    )
    if not has_place:
        teacher.to(args.device)
    config = getattr(teacher, "config", None)
    if config is not None and hasattr(config, "use_cache"):
        # As the Trainer does with the student: a cache that nobody reads costs memory.
        config.use_cache = False
    return teacher.eval()
