"""What a vLLM server's answers must look like."""

from typing import Annotated, Any

from pydantic import Field

from eval_harness.shared.endpoint.messages import Message


class Served(Message):
    """A model that the server has."""

    max_model_len: int = Field(ge=1)


class Models(Message):
    """Of /v1/models."""

    data: list[Served] = Field(min_length=1)


class Success(Message):
    """Of /reset_prefix_cache; older servers send an empty answer."""

    success: bool = True


class Results(Message):
    """Of /collective_rpc: one entry per worker."""

    results: list[Any] = Field(default_factory=list)


class SampledChoice(Message):
    """One answer as token ids."""

    token_ids: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    finish_reason: str | None


class Sampled(Message):
    """Of /v1/completions with return_token_ids."""

    choices: list[SampledChoice] = Field(min_length=1, max_length=1)


class LogProbability(Message):
    """Of one token, in nats."""

    # A sum of rounded probabilities may exceed 1 by this much.
    logprob: float = Field(le=1e-3)


class ScoredChoice(Message):
    """A prompt's log-probabilities: a mapping per token, by its id; None for the first token."""

    prompt_logprobs: list[dict[str, LogProbability] | None]


class Scored(Message):
    """Of /v1/completions with prompt_logprobs."""

    choices: list[ScoredChoice] = Field(min_length=1, max_length=1)
