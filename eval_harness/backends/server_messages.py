"""What the answers of an OpenAI-compatible server must look like."""

from typing import Annotated

from pydantic import Field

from eval_harness.shared.endpoint.messages import Message

TokenId = Annotated[int, Field(ge=0)]


class ModelEntry(Message):
    """A model that the server has; vLLM and SGLang say where it is from and how long it may be."""

    id: str = Field(min_length=1)
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = Field(default=None, ge=1)


class Models(Message):
    """Of /models."""

    data: list[ModelEntry] = Field(min_length=1)


class Version(Message):
    """Of vLLM's /version."""

    version: str


class LogProbability(Message):
    """Of one token, in nats."""

    # A sum of rounded probabilities may exceed 1 by this much.
    logprob: float = Field(le=1e-3)


class TokenLogProbs(Message):
    """`logprobs` of a choice: one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(default_factory=list)


class Choice(Message):
    """One answer; which of its fields are there depends on the server and on what was asked."""

    finish_reason: str | None
    text: str | None = None
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    logprobs: TokenLogProbs | None = None
    prompt_logprobs: list[dict[str, LogProbability] | None] | None = None


class Usage(Message):
    """Tokens, as the server counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(Message):
    """Of /completions: one answer to one prompt."""

    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: Usage | None = None
