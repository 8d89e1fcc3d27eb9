"""Puts the steps of a prompt together. T tokens of a step, N positions, K layers, D width."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillens_plugin.vllm_states.exchange import Asked, asked

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


@dataclass
class _Row:
    wanted: Asked
    states: dict[int, Tensor] = field(default_factory=dict)  # [K, D] by position


class Rows:
    """The requests that are running and what has been seen of them."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def add(
        self, step: "SchedulerOutput", order: list[str], states_TKD: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Takes the states of one step.

        Args:
            step: what was scheduled.
            order: request ids in the order of their tokens in the step.
            states_TKD: of all tokens, perhaps followed by padding.
        Yields:
            Name and states [N, K, D] of each request that is now complete.
        """
        for request_id in step.finished_req_ids:
            self._rows.pop(request_id, None)
        starts = dict(
            zip(
                step.scheduled_cached_reqs.req_ids,
                step.scheduled_cached_reqs.num_computed_tokens,
                strict=True,
            )
        )
        for new in step.scheduled_new_reqs:
            starts[new.req_id] = new.num_computed_tokens
            extra = (new.sampling_params.extra_args if new.sampling_params else None) or {}
            params = extra.get("kv_transfer_params")
            wanted = asked(params, num_tokens=len(new.prompt_token_ids or ()))
            if isinstance(wanted, Asked):  # else the connector says what is wrong
                self._rows[new.req_id] = _Row(wanted)
        first = 0
        for request_id in order:
            num_tokens = step.num_scheduled_tokens[request_id]
            row = self._rows.get(request_id)
            if row is not None:
                begin = starts[request_id]
                for position in row.wanted.positions:
                    if begin <= position < begin + num_tokens:
                        row.states[position] = states_TKD[first + position - begin]
                if len(row.states) == len(row.wanted.positions):
                    del self._rows[request_id]
                    together = [row.states[i] for i in row.wanted.positions]
                    yield row.wanted.name, torch.stack(together)
            first += num_tokens
