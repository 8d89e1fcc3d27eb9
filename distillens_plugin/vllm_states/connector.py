"""A KV connector that writes the states which vLLM's own extraction keeps in its cache.

vLLM loads it by `kv_connector_module_path`; `serve` gives all flags. The connector that vLLM ships
needs pinned memory, which a CPU lacks, and writes whole prompts; this one writes the positions that
are asked for. Legend: N positions, K layers, D width.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
)
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from distillens_plugin.vllm_states.answers import Answers
from distillens_plugin.vllm_states.exchange import write_states
from distillens_plugin.vllm_states.settings import settings_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


@dataclass
class Save:
    """A finished request: where its wanted states lie in the cache."""

    request_id: str
    name: str
    positions: list[int]
    block_ids: list[int]


@dataclass
class Saves(KVConnectorMetadata):
    """From the scheduler to the workers, once a step."""

    saves: list[Save] = field(default_factory=list)


class StatesConnector(ExampleHiddenStatesConnector):
    """Writes one file for each request that asks for states; see `exchange`."""

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = settings_of(vllm_config)
        # Only the scheduler answers, and reading the model folder takes a moment.
        on_scheduler = role == KVConnectorRole.SCHEDULER
        self._answers = Answers(vllm_config, "vllm") if on_scheduler else None
        self._saves: list[Save] = []
        self._writers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="states")

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        saves, self._saves = self._saves, []
        return Saves(saves)

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, object] | None]:
        # Positions are checked here: a wrong one in a worker would end the engine.
        assert self._answers is not None
        wanted, answer = self._answers.to(request)
        if wanted is None:
            return False, answer
        save = Save(request.request_id, wanted.name, wanted.positions, list(block_ids))
        self._saves.append(save)
        return True, answer  # its blocks stay until get_finished has read them

    def wait_for_save(self) -> None:
        """Nothing: files appear whole, so nobody needs a lock."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        metadata = self._get_connector_metadata() if self.has_connector_metadata() else None
        if not isinstance(metadata, Saves) or not self._is_tp_rank_zero:
            return None, None
        for save in metadata.saves:
            states_NKD = self._read(save)
            self._writers.submit(write_states, self._settings.folder, save.name, states_NKD)
        return {save.request_id for save in metadata.saves} or None, None

    def _read(self, save: Save) -> torch.Tensor:
        """States [N, K, D] of a request, on the CPU: a small copy that waits for the forward."""
        cache = self._kv_cache
        assert cache is not None
        positions = torch.tensor(save.positions)
        blocks = torch.tensor(save.block_ids)[positions // self._block_size]
        offsets = positions % self._block_size
        with gpu_sync_allowed():
            return cache[blocks.to(cache.device), :, offsets.to(cache.device)].cpu()
