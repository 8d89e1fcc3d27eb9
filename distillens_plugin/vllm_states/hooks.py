"""States by forward hooks, for architectures that vLLM's own extraction refuses.

GPT-2, OPT, GPT-NeoX, Gemma 2 and others run eagerly with a hook on every block. `HooksConnector`
answers requests on the scheduler's side; `HooksWorker` records and writes. Legend: T tokens of a
step, N positions, K layers, D width.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from distillens_plugin.vllm_states.answers import Answers
from distillens_plugin.vllm_states.exchange import write_states
from distillens_plugin.vllm_states.rows import Rows
from distillens_plugin.vllm_states.settings import settings_of
from distillens_plugin.vllm_states.watched_blocks import WatchedBlocks

if TYPE_CHECKING:
    from torch import Tensor
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class HooksConnector(KVConnectorBase_V1, SupportsHMA):
    """Moves no cache: it gives requests their answers."""

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        settings_of(vllm_config)
        on_scheduler = role == KVConnectorRole.SCHEDULER
        self._answers = Answers(vllm_config, "vllm-hooks") if on_scheduler else None

    def start_load_kv(self, forward_context: object, **kwargs: object) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(
        self, layer_name: str, kv_layer: "Tensor", attn_metadata: object, **kwargs: object
    ) -> None: ...

    def wait_for_save(self) -> None: ...

    def get_num_new_matched_tokens(
        self, request: "Request", num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        return 0, False

    def update_state_after_alloc(
        self, request: "Request", blocks: object, num_external_tokens: int
    ) -> None: ...

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, object] | None]:
        assert self._answers is not None
        return False, self._answers.to(request)[1]

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, object] | None]:
        return self.request_finished(request, [])


class HooksWorker(PlatformWorker):
    """The platform's worker, whose blocks are watched."""

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        super().load_model(load_dummy_weights=load_dummy_weights)
        settings = settings_of(self.vllm_config)
        self._folder = settings.folder
        last = self.model_config.hf_text_config.num_hidden_layers
        self._watched = WatchedBlocks(self.model_runner.get_model(), settings.layers, last)
        self._rows = Rows()
        self._writers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="states")

    def execute_model(self, scheduler_output: "SchedulerOutput") -> object:
        # Sampling comes later, but the forward pass is done when this returns.
        output = super().execute_model(scheduler_output)
        states_TKD = self._watched.take()
        if states_TKD is not None and get_tensor_model_parallel_rank() == 0:
            order = list(self.model_runner.input_batch.req_ids)
            for name, states_NKD in self._rows.add(scheduler_output, order, states_TKD):
                self._writers.submit(write_states, self._folder, name, states_NKD)
        return output
