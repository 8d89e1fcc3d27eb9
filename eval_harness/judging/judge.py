"""A judge: a chat model behind an OpenAI-compatible endpoint, asked one message at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from eval_harness.errors import DistillensError
from eval_harness.shared.endpoint.http_json import JsonClient
from eval_harness.shared.endpoint.messages import Message, read
from eval_harness.shared.endpoint.openai_compatible import RETRIED, check_model_is_served
from eval_harness.shared.files.typed_json import Count, Strict

# Likeliest words only, and room for reasons.
_REQUEST: dict[str, Any] = {"temperature": 0, "max_tokens": 1024}
# What other models call the limit.
_LIMITS = ("max_tokens", "max_completion_tokens")
_OURS = ("model", "messages", "n", "stream", "tools", "tool_choice")
_MAX_BYTES = 4 * 2**20
_PROBE_S = 10.0
_CALL = "/chat/completions"


class JudgedRow(Strict):
    """A stored answer of the judge.

    Attributes:
        text: all that it wrote.
        refused: it declined to judge.
        num_tokens: of the text, as the endpoint counts;  model: that answered, as it says.
        base_url: of the endpoint; None in rows of earlier versions.
    """

    text: str
    refused: bool
    finish_reason: str | None
    num_tokens: Count | None
    model: str | None
    base_url: str | None = None


class _Said(Message):
    content: str | None = None
    refusal: str | None = None


class _Choice(Message):
    message: _Said
    finish_reason: str | None = None


class _Usage(Message):
    completion_tokens: Count | None = None


class _Chat(Message):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None
    model: str | None = None


def request_settings(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent beside model and message: the defaults, changed; null takes one away.

    Raises:
        DistillensError: a key that is not for the user to set.
    """
    for key in _OURS:
        if key in gen_kwargs:
            raise DistillensError(f"--gen_kwargs {key}: the judge sets it itself; leave it out")
    defaults = {
        key: value
        for key, value in _REQUEST.items()
        if key not in _LIMITS or not any(limit in gen_kwargs for limit in _LIMITS)
    }
    return {k: v for k, v in {**defaults, **gen_kwargs}.items() if v is not None}


@dataclass
class Judge:
    """One model of one endpoint; threads may share it.

    Attributes:
        model: its name at the endpoint.
        base_url: such as http://localhost:8000/v1.
        timeout_s: longest wait for one verdict, all tries together.
        headers: with the API key.
        request: from `request_settings`.
    """

    model: str
    base_url: str
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    request: dict[str, Any] = field(default_factory=lambda: dict(_REQUEST))

    def __post_init__(self) -> None:
        self._client = self._client_for(self.timeout_s)

    @property
    def num_retries(self) -> int:
        """Requests that failed and were repeated."""
        return self._client.num_retries

    def check(self) -> None:
        """Asks for the models that are served, before anything is judged.

        Raises:
            DistillensError: no endpoint there, or one without this model.
        """
        probe = self._client_for(min(self.timeout_s, _PROBE_S))
        check_model_is_served(probe, self.model, flag="--judge_model")

    def ask(self, message: str) -> dict[str, Any]:
        """What the judge says to one message, as a `JudgedRow` has it.

        Raises:
            EndpointFailure: no answer, or one that is no chat completion.
        """
        messages = [{"role": "user", "content": message}]
        body = {**self.request, "model": self.model, "messages": messages}
        answer = self._client.ask("POST", _CALL, body)
        chat = read(_Chat, answer, self.base_url + _CALL)
        said, reason = chat.choices[0].message, chat.choices[0].finish_reason
        return {
            "text": said.content or said.refusal or "",
            "refused": bool(said.refusal) or reason == "content_filter",
            "finish_reason": reason,
            "num_tokens": chat.usage.completion_tokens if chat.usage is not None else None,
            "model": chat.model,
            "base_url": self.base_url,
        }

    def _client_for(self, timeout_s: float) -> JsonClient:
        return JsonClient(
            self.base_url,
            timeout_s=timeout_s,
            headers=self.headers,
            retried=RETRIED,
            max_bytes=_MAX_BYTES,
        )
