"""FSDP2 on a CPU, for tests: accelerate ignores its FSDP plugin there, without a word.

`AcceleratorState` turns the plugin on for GPUs alone (its list has no MULTI_CPU), and a run that
was to be sharded is then plain data parallelism: every test would pass without a shard. `install`
adds those lines for gloo. As another version of accelerate may need other lines, each use must
assert `is_sharded` for the blocks of both models.
"""

import os
import subprocess
import sys
from pathlib import Path

from torch import nn
from torch.distributed.tensor import DTensor

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

# What `accelerate launch` sets for recipes/accelerate/fsdp2.yaml.
FSDP2 = {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
# And for hsdp.yaml on four processes: two groups of two shards.
HSDP = {
    **FSDP2,
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
}


def install() -> None:
    """The shim; call it before the first Accelerator of the process is made."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is None or self.distributed_type is not DistributedType.MULTI_CPU:
            return
        self.distributed_type = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = init


def is_sharded(model: nn.Module) -> bool:
    """Whether all parameters in the model's lists of blocks are DTensors (between two forwards)."""
    found = [
        isinstance(parameter, DTensor)
        for blocks in model.modules()
        if isinstance(blocks, nn.ModuleList)
        for parameter in blocks.parameters()
    ]
    return bool(found) and all(found)


def ranks(script, *arguments, processes=2, environment=None, timeout=300):
    """Runs a script of tests/scripts on gloo ranks.

    Args:
        environment: FSDP2 (the default) or HSDP, with changes.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **(environment or FSDP2),
        },
    )
