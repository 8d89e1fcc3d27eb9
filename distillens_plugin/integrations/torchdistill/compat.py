"""Shims for faults in what we build on; each states when it can be removed."""

from accelerate.state import AcceleratorState


def restore_use_fp16() -> None:
    """Gives accelerate's state back `use_fp16`, which torchdistill's boxes still read.

    `DistillationBox` with an accelerator and a frozen teacher reads `accelerator.state.use_fp16`,
    gone since accelerate 1.0, to decide whether to halve the teacher. Remove this when
    torchdistill's core/distillation.py no longer names `use_fp16`.
    """
    if not hasattr(AcceleratorState, "use_fp16"):
        AcceleratorState.use_fp16 = property(lambda state: state.mixed_precision == "fp16")
