"""DeepSpeed's ZeRO on a CPU, for tests: accelerate turns its plugin on for GPUs alone, in silence.

As with FSDP2 (fsdp_on_cpu.py), the lines for gloo are here. DeepSpeed would first compile a way of
its own through shared memory, for minutes; without, it communicates through gloo.
"""

# What `accelerate launch` sets for recipes/accelerate/zero2.yaml.
ZERO2 = {
    "ACCELERATE_USE_CPU": "true",
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
}


def install() -> None:
    """The shim; call it before the first Accelerator of the process is made."""
    import deepspeed
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

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


def is_zero2(model) -> bool:
    """Whether it is DeepSpeed's engine, at stage 2."""
    import deepspeed

    return isinstance(model, deepspeed.DeepSpeedEngine) and model.zero_optimization_stage() == 2
