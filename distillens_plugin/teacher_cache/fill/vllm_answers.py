"""What a vLLM server answers to a request for states: a field that is wrong is named."""

from pydantic import Field

from distillens_plugin.on_policy.vllm_messages import LogProbability
from eval_harness.shared.endpoint.messages import Message


class EngineFacts(Message):
    """Of the connector; `vllm_states.exchange.Facts` on the other side says what they mean."""

    engine: str
    version: str
    dtype: str
    quantisation: str
    kv_cache_dtype: str
    hf_overrides: str
    model: str
    layers: list[int]
    folder: str
    format: int


def identity_of(facts: EngineFacts) -> dict[str, str]:
    """What decides the states besides the weights. The number of GPUs does not."""
    return {
        "engine": facts.engine,
        "version": facts.version,
        "dtype": facts.dtype,
        "quantisation": facts.quantisation,
        "kv_cache_dtype": facts.kv_cache_dtype,
        "hf_overrides": facts.hf_overrides,
    }


class Given(Message):
    """kv_transfer_params of an answer."""

    facts: EngineFacts
    error: str | None = None


class NextToken(Message):
    """Log-probability of the one token that may follow the prompt, in nats."""

    token_logprobs: list[float] = Field(min_length=1)


class StatesChoice(Message):
    """Log-probabilities of a prompt's tokens, by id; None for the first."""

    prompt_logprobs: list[dict[str, LogProbability] | None]
    logprobs: NextToken
    token_ids: list[int] = Field(min_length=1)


class StatesAnswer(Message):
    """Of /v1/completions; without our connector kv_transfer_params are None."""

    choices: list[StatesChoice] = Field(min_length=1, max_length=1)
    kv_transfer_params: Given | None = None


class ServedModel(Message):
    """What a server says about its model."""

    max_model_len: int = Field(ge=1)


class ServedModels(Message):
    """Of /v1/models."""

    data: list[ServedModel] = Field(min_length=1)
