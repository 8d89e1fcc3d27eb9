"""The scheduler's side of both ways: what is said to a request when it has finished."""

from typing import TYPE_CHECKING

from distillens_plugin.vllm_states.exchange import Asked, asked
from distillens_plugin.vllm_states.settings import facts_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.request import Request


class Answers:
    """What requests are told.

    Args:
        config: of the engine.
        engine: "vllm" or "vllm-hooks".
    """

    def __init__(self, config: "VllmConfig", engine: str) -> None:
        self._facts = facts_of(config, engine).to_json()

    def to(self, request: "Request") -> tuple[Asked | None, dict[str, object] | None]:
        """What it wants, None where it gets nothing, and its answer's kv_transfer_params."""
        params = request.kv_transfer_params
        if params is None:  # a request that is not about states
            return None, None
        num_tokens = len(request.prompt_token_ids or ())
        wanted = asked(params, num_tokens=num_tokens)
        if request.num_computed_tokens < num_tokens:
            wanted = "the request was ended before its prompt was read"
        if isinstance(wanted, str):
            return None, {"facts": self._facts, "error": wanted}
        return wanted, {"facts": self._facts}
