"""Settings of transformers' Trainer under which the lens would be wrong, or silently absent."""

from collections.abc import Iterator

from transformers import Trainer

from eval_harness.errors import DistillensError

_ADVICE = "use FSDP2 (recipes/accelerate/fsdp2.yaml), or DDP"


def check_trainer(trainer: Trainer, *, uses_own_loss: bool) -> None:
    """Refuses what the lens does not honour.

    Args:
        trainer: after its own initialisation.
        uses_own_loss: the loss that the trainer computes itself is added to the lens.
    Raises:
        DistillensError: the first such setting, and what to do.
    """
    for found, advice in _refused(trainer, uses_own_loss=uses_own_loss):
        raise DistillensError(f"{type(trainer).__name__}: {found}; {advice}")


def _refused(trainer: Trainer, *, uses_own_loss: bool) -> Iterator[tuple[str, str]]:
    args = trainer.args
    if args.label_smoothing_factor:
        yield (
            f"label_smoothing_factor = {args.label_smoothing_factor}, which the lens's terms do "
            "not have",
            "leave it out",
        )
    if trainer.compute_loss_func is not None and not uses_own_loss:
        yield (
            "compute_loss_func is given, but trainer_loss = 0, so that it would not be called",
            "leave it out, or give trainer_loss a weight",
        )
    if trainer.label_names != ["labels"]:
        yield f"label_names = {trainer.label_names!r}, expected ['labels']", "leave it out"
    if args.use_liger_kernel:
        yield (
            "use_liger_kernel patches the head that the lens reads",
            "leave it out: the lens makes no logits for the whole vocabulary either",
        )
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if (getattr(args, name, None) or {}).get("use_reentrant"):
            yield (
                f"{name}: use_reentrant = True, which cuts the layers off the graph",
                "set it to False",
            )
    yield from _refused_distribution(trainer)


def _refused_distribution(trainer: Trainer) -> Iterator[tuple[str, str]]:
    args = trainer.args
    if args.n_gpu > 1:
        yield (
            f"{args.n_gpu} GPUs in one process (DataParallel), whose copies run without the hooks",
            "start it with accelerate launch or torchrun",
        )
    yield from _refused_sharding(trainer)
    config = getattr(args, "parallelism_config", None)
    sizes = {kind: getattr(config, f"{kind}_size", 1) or 1 for kind in ("tp", "cp", "sp")}
    for kind, size in sizes.items():
        if size > 1:
            yield f"parallelism_config.{kind}_size = {size}, expected 1", _ADVICE
    if args.ddp_static_graph:
        yield (
            "ddp_static_graph waits for a gradient of the model's output, which the lens does not "
            "use",
            "leave it out",
        )


def _refused_sharding(trainer: Trainer) -> Iterator[tuple[str, str]]:
    state = trainer.accelerator.state
    if trainer.is_fsdp_xla_enabled:
        yield "FSDP on XLA, which splits the weights that the lens reads", _ADVICE
    elif trainer.is_fsdp_enabled and state.fsdp_plugin.fsdp_version != 2:
        yield "FSDP version 1, which splits the weights that the lens reads", _ADVICE
    elif trainer.is_fsdp_enabled and trainer.accelerator.mixed_precision == "fp16":
        yield "fp16 with models in pieces, for which the teacher has no scale", "use bf16"
    if trainer.is_deepspeed_enabled and state.deepspeed_plugin.zero_stage == 3:
        yield "DeepSpeed's ZeRO stage 3, which splits the weights that the lens reads", _ADVICE
    if trainer.is_distributed_loading_by_transformers:
        yield "a model sharded when it was loaded, whose weights the lens cannot read", _ADVICE
