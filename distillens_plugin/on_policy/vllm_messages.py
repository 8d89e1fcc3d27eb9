"""What a vLLM server's answers must look like: read strictly, refused by the field's name."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval_harness.errors import RunFailure


class Message(BaseModel):
    """No text for a number, no 3.0 for a 3; fields that we do not read are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


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


_Kind = TypeVar("_Kind", bound=Message)


def read(kind: type[_Kind], answer: object, where: str) -> _Kind:
    """The answer as `kind`.

    Args:
        answer: decoded JSON; None (an empty answer) reads as {}.
        where: address and path, for the error.
    Raises:
        RunFailure: the first field that is missing or of another type.
    """
    try:
        return kind.model_validate({} if answer is None else answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "missing":
            problem = "found nothing, expected this field"
        else:
            expected = first["msg"].removeprefix("Input should be ")
            problem = f"found {_shown(first['input'])}, expected: {expected}"
        raise RunFailure(f"{where}: {_path(first['loc'])}: {problem}") from error


def _path(places: tuple[int | str, ...]) -> str:
    text = ""
    for place in places:
        text += f"[{place}]" if isinstance(place, int) else f".{place}"
    return text.lstrip(".")[:200] or "the answer"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
