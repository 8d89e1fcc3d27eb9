"""How a launcher spreads a run over processes, read from the variables that it sets.

`accelerate launch --config_file` says in variables what its file says, so everything that is
refused can be refused before the processes meet. (accelerate itself would fail later, or not at
all.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eval_harness.errors import DistillensError

Kind = Literal["ddp", "fsdp2", "hsdp", "zero1", "zero2"]
# Shipped as recipes/accelerate/NAME.yaml.
CONFIGURATIONS: tuple[Kind, ...] = ("ddp", "fsdp2", "hsdp", "zero2")
_USE_FSDP2 = "start with accelerate launch --config_file recipes/accelerate/fsdp2.yaml"
_OTHER_AXES = {"TP": "tensor", "CP": "context", "SP": "sequence"}


@dataclass(frozen=True)
class Launch:
    """What the launcher was told.

    Attributes:
        kind: `ddp` also where there is one process.
        one_rank_reads: only one rank of a node reads weights from files (FSDP2).
    """

    kind: Kind
    one_rank_reads: bool = False

    @property
    def shards_models(self) -> bool:
        """Whether parameters are in pieces between two forwards (FSDP2)."""
        return self.kind in ("fsdp2", "hsdp")


def launch_of(environment: Mapping[str, str]) -> Launch:
    """The launch that these variables describe.

    Raises:
        DistillensError: a way of sharding that is not supported; names what to use.
    """
    if _is_on(environment, "ACCELERATE_USE_MEGATRON_LM"):
        raise _refusal("Megatron-LM (tensor and pipeline parallel)")
    sizes = dict.fromkeys((*_OTHER_AXES, "DP_REPLICATE", "DP_SHARD"), 1)
    if _is_on(environment, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        for axis in sizes:
            sizes[axis] = _number(environment, f"PARALLELISM_CONFIG_{axis}_SIZE", 1)
    for axis, name in _OTHER_AXES.items():
        if sizes[axis] > 1:
            raise _refusal(f"{name} parallel over {sizes[axis]} processes")
    if _is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        return Launch(_zero(environment))
    if not _is_on(environment, "ACCELERATE_USE_FSDP"):
        return Launch("ddp")
    if _number(environment, "FSDP_VERSION", 1) != 2:
        raise _refusal("FSDP version 1")
    if _is_on(environment, "FSDP_OFFLOAD_PARAMS"):
        raise _refusal("FSDP2 with parameters offloaded to the CPU")
    if _is_on(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
        raise _refusal(
            "FSDP2 with activation checkpointing of its own",
            instead="set gradient_checkpointing: true for the model in the recipe, and ",
        )
    one_rank_reads = _is_on(environment, "FSDP_CPU_RAM_EFFICIENT_LOADING")
    return Launch("hsdp" if sizes["DP_REPLICATE"] > 1 else "fsdp2", one_rank_reads)


def _zero(environment: Mapping[str, str]) -> Kind:
    if environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise DistillensError(
            "accelerate is set up with a DeepSpeed file of its own, but the recipe sets what that "
            "says of accumulation and clipping; start with accelerate launch --config_file "
            "recipes/accelerate/zero2.yaml"
        )
    stage = _number(environment, "ACCELERATE_DEEPSPEED_ZERO_STAGE", 2)
    if stage not in (1, 2):
        raise _refusal(f"ZeRO stage {stage}", or_else="fsdp2.yaml, or zero2.yaml there")
    for what in ("OPTIMIZER", "PARAM"):
        device = environment.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none")
        if device not in ("none", ""):
            raise _refusal(f"DeepSpeed with {what.lower()}s offloaded to {device}")
    return "zero1" if stage == 1 else "zero2"


def _refusal(found: str, *, instead: str = "", or_else: str = "fsdp2.yaml") -> DistillensError:
    return DistillensError(
        f"accelerate is set up for {found}, which is not supported; {instead}"
        f"{_USE_FSDP2.replace('fsdp2.yaml', or_else)}"
    )


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1", "yes", "on")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise DistillensError(f"{name}: found {text!r}, expected a whole number") from None
