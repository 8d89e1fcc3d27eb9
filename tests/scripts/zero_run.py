"""`distillens run` with DeepSpeed's ZeRO-2 on a CPU: the arguments are the command's.

accelerate turns its DeepSpeed plugin on for GPUs alone, without a word, as with FSDP2
(fsdp_on_cpu.py); the lines for gloo are here. DeepSpeed would first compile a way of its own
through shared memory, for minutes; without, it communicates through gloo.

Usage: torchrun --standalone --nproc_per_node=2 zero_run.py RECIPE --output_dir FOLDER ...
"""

import sys

import deepspeed
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from distillens_plugin import run
from distillens_plugin.training import train

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
original = AcceleratorState.__init__


def init(self, *args, deepspeed_plugin=None, **kwargs):
    original(self, *args, deepspeed_plugin=deepspeed_plugin, **kwargs)
    if deepspeed_plugin is None or self.distributed_type is not DistributedType.MULTI_CPU:
        return
    deepspeed.comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    self.distributed_type = DistributedType.DEEPSPEED
    self._mixed_precision = "no"
    deepspeed_plugin.set_mixed_precision("no")
    deepspeed_plugin.select(_from_accelerator_state=True)
    self.deepspeed_plugins = deepspeed_plugin
    PartialState._shared_state["distributed_type"] = self.distributed_type


AcceleratorState.__init__ = init
build = train.build_experiment


def checked(*arguments, **keywords):
    experiment = build(*arguments, **keywords)
    engine = experiment.box.student_model
    assert isinstance(engine, deepspeed.DeepSpeedEngine)
    assert engine.zero_optimization_stage() == 2
    return experiment


train.build_experiment = checked
sys.exit(run.main(sys.argv[1:]))
