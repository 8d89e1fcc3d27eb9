"""What is asked of a server for one answer, and what its answer must be to count as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.end_tokens import strip_stop
from eval_harness.backends.server_connection import VLLM, Served
from eval_harness.backends.server_messages import Completion
from eval_harness.errors import RunFailure

_TOKEN_ID = "token_id:"


class AnswerForm(Enum):
    """How a server gives the tokens of an answer, best first."""

    IDS = "token ids"
    LOGPROBS = "token ids beside their log-probabilities"
    TEXT = "text, whose tokens are counted with the tokenizer"


class LikelihoodForm(Enum):
    """How a server gives the log-probabilities of a prompt's tokens."""

    PROMPT_LOGPROBS = "prompt_logprobs"
    ECHO = "echo"


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        token_ids: without the end token; None in the form TEXT.
        text: in the form TEXT, else None.
        finish_reason: "stop" or "length".
    """

    token_ids: list[int] | None
    text: str | None
    finish_reason: str


def completion_body(
    request: Request,
    sampling: Sampling,
    *,
    served: Served,
    form: AnswerForm,
    stop_token_ids: Sequence[int],
) -> dict[str, Any]:
    """The JSON of one request.

    Each field that a server would otherwise take from the model's generation_config.json is set.
    """
    body: dict[str, Any] = {
        "model": served.id,
        "prompt": list(request.prompt_ids),
        "max_tokens": sampling.max_new_tokens,
        "n": 1,
        "stream": False,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # -1 is off for vLLM and for SGLang, which refuses 0.
        "top_k": sampling.top_k or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "stop_token_ids": list(stop_token_ids),
        # vLLM would add the end token of its own tokenizer; SGLang would forget stop_token_ids.
        "ignore_eos": served.engine == VLLM,
        "skip_special_tokens": True,
        "return_token_ids": True,
    }
    if sampling.temperature > 0:
        body["seed"] = request.seed
    if form is AnswerForm.LOGPROBS:
        body |= {"logprobs": 1, "return_tokens_as_token_ids": True}
    return body


def likelihood_body(item: Continuation, *, served: Served, form: LikelihoodForm) -> dict[str, Any]:
    """The JSON that asks for the log-probabilities of a prompt's tokens; one token is generated."""
    request = Request((*item.prompt_ids, *item.token_ids), seed=0)
    greedy = Sampling(1, temperature=0.0, top_p=1.0, top_k=0, no_repeat_ngram_size=0)
    body = completion_body(request, greedy, served=served, form=AnswerForm.TEXT, stop_token_ids=())
    if form is LikelihoodForm.PROMPT_LOGPROBS:
        return {**body, "prompt_logprobs": 0}
    return {**body, "echo": True, "logprobs": 1}


def read_answer(
    completion: Completion,
    sampling: Sampling,
    *,
    served: Served,
    form: AnswerForm,
    stop_token_ids: Sequence[int],
    num_ids: int | None,
    where: str,
) -> Generated:
    """The answer, or one line on why it is none.

    Args:
        num_ids: rows of the model's embedding, above all its ids; None if unknown.
        where: what errors begin with.
    Raises:
        RunFailure: it lacks what `form` says, is longer or shorter than was asked for, or has ids
            that the model lacks.
    """
    (choice,), limit, where = completion.choices, sampling.max_new_tokens, f"{where}: choices[0]"
    reason = choice.finish_reason
    if reason not in ("stop", "length"):
        raise RunFailure(f"{where}.finish_reason: found {reason!r}, expected 'stop' or 'length'")
    if form is AnswerForm.TEXT:
        if choice.text is None:
            raise RunFailure(f"{where}.text: found nothing, expected the answer")
        num_tokens = completion.usage.completion_tokens if completion.usage else None
        if num_tokens is not None:
            _check_length(num_tokens, limit, reason, f"{where}.text")
        return Generated(None, choice.text, reason)
    found = token_ids_of(completion, form)
    if found is None:
        raise RunFailure(f"{where}: found no {form.value}, which the server gave before")
    if num_ids is not None and max(found, default=0) >= num_ids:
        raise RunFailure(
            f"{where}.token_ids: found the id {max(found)}, expected ids below {num_ids}; does the "
            "server have the model of this folder?"
        )
    token_ids, end = strip_stop(found, stop_token_ids)
    if end == "stop":
        _check_length(len(found), limit, "stop", f"{where}.token_ids")
        return Generated(token_ids, None, end)
    _check_length(len(found), limit, reason, f"{where}.token_ids")
    if reason == "stop" and len(found) < limit and served.engine == VLLM:
        raise RunFailure(
            f"{where}: the answer ends after {len(found)} of {limit} tokens without one of the end "
            "tokens that were asked for; start the server with --generation-config vllm"
        )
    # Other servers leave the end token out.
    return Generated(token_ids, None, reason)


def token_ids_of(completion: Completion, form: AnswerForm) -> list[int] | None:
    """The ids of an answer, with its end token; None if they are not there in this form."""
    (choice,) = completion.choices
    if form is AnswerForm.IDS:
        return choice.token_ids
    if choice.logprobs is None:
        return None
    found = []
    for token in choice.logprobs.tokens:
        digits = token.removeprefix(_TOKEN_ID)
        if digits == token or not (digits.isascii() and digits.isdigit()):
            return None
        found.append(int(digits))
    return found


def read_log_probs(
    completion: Completion, token_ids: Sequence[int], form: LikelihoodForm, *, where: str
) -> list[float]:
    """Of each token after the first, given those before it, in nats.

    Raises:
        RunFailure: some of them are missing.
    """
    (choice,) = completion.choices
    where = f"{where}: choices[0]"
    if form is LikelihoodForm.ECHO:
        values = choice.logprobs.token_logprobs[1 : len(token_ids)] if choice.logprobs else []
        known = [value for value in values if value is not None]
        if len(known) != len(token_ids) - 1:
            raise RunFailure(
                f"{where}.logprobs.token_logprobs: found {len(known)} numbers for the prompt, "
                f"expected {len(token_ids) - 1}"
            )
        return known
    entries = choice.prompt_logprobs or []
    if len(entries) != len(token_ids):
        raise RunFailure(
            f"{where}.prompt_logprobs: found {len(entries)} entries, expected {len(token_ids)}, "
            "one per token"
        )
    found = []
    for place, (token, entry) in enumerate(zip(token_ids, entries, strict=True)):
        if place == 0:
            continue
        if entry is None or str(token) not in entry:
            raise RunFailure(f"{where}.prompt_logprobs[{place}]: found no token {token}")
        found.append(entry[str(token)].logprob)
    return found


def _check_length(num_tokens: int, limit: int, reason: str, where: str) -> None:
    if num_tokens > limit:
        raise RunFailure(f"{where}: found {num_tokens} tokens, expected at most {limit}")
    if reason == "length" and num_tokens < limit:
        raise RunFailure(
            f"{where}: the server cut the answer after {num_tokens} of {limit} tokens; start it "
            "with a longer context (--max-model-len) and without a limit of its own "
            "(--generation-config vllm)"
        )
