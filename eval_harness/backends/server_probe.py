"""What a server can do, asked before a run: a few requests of one token each.

A server that is busy is waited for: what it refuses at that moment says nothing about it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.server_connection import Connection, ServerAwayFailure
from eval_harness.backends.server_messages import Completion
from eval_harness.backends.server_requests import (
    AnswerForm,
    LikelihoodForm,
    completion_body,
    likelihood_body,
    read_log_probs,
    token_ids_of,
)
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.endpoint.http_json import EndpointFailure

_SIGNATURE_TOKENS = 48
_ONE_TOKEN = Sampling(1, temperature=0.0, top_p=1.0, top_k=0, no_repeat_ngram_size=0)


def find_form(connection: Connection, prompt_ids: Sequence[int]) -> AnswerForm:
    """How the server gives an answer's tokens, once it has shown that it takes those of a prompt.

    Args:
        prompt_ids: a few ids that the model has.
    Raises:
        DistillensError: it does not take token ids, or reads them as something else.
    """
    try:
        completion = connection.ask(_body(connection, prompt_ids, AnswerForm.IDS))
    except EndpointFailure as error:
        raise DistillensError(
            f"{error}; expected a server that takes a prompt of token ids and the sampling "
            "settings of vLLM or SGLang"
        ) from None
    _check_prompt(connection, completion, prompt_ids)
    if token_ids_of(completion, AnswerForm.IDS) is not None:
        return AnswerForm.IDS
    try:
        completion = connection.ask(_body(connection, prompt_ids, AnswerForm.LOGPROBS))
    except EndpointFailure:
        return AnswerForm.TEXT
    if token_ids_of(completion, AnswerForm.LOGPROBS):
        return AnswerForm.LOGPROBS
    return AnswerForm.TEXT


def check_length(connection: Connection, max_length: int, token_id: int) -> None:
    """Refuses a server whose context is too short for this run.

    Args:
        max_length: longest prompt and answer together.
        token_id: one that the model has.
    Raises:
        DistillensError: says what the server must be started with.
    """
    needed = (
        f"a prompt and its answer have up to {max_length} tokens here; start it with "
        f"--max-model-len {max_length} or more, or give max_length=N to cut prompts and answers"
    )
    limit = connection.max_model_len
    if limit is not None and limit < max_length:
        raise DistillensError(
            f"{connection.address.base_url}: takes at most {limit} tokens, but {needed}"
        )
    if limit is None:
        # It does not say, so it is shown the longest.
        body = _body(connection, [token_id] * (max_length - 1), AnswerForm.TEXT)
        try:
            connection.ask(body)
        except EndpointFailure as error:
            raise DistillensError(f"{error}; {needed}") from None


def find_likelihood_form(connection: Connection, token_ids: Sequence[int]) -> LikelihoodForm:
    """How the server gives the log-probabilities of a prompt's tokens.

    Args:
        token_ids: at least two that the model has.
    Raises:
        DistillensError: it does not.
        ServerAwayFailure: it was away or busy for too long.
    """
    problem = ""
    for form in LikelihoodForm:
        try:
            ask_log_probs(connection, token_ids, form, ask=connection.ask)
            return form
        except ServerAwayFailure:
            raise
        except RunFailure as error:
            problem = problem or str(error)
    raise DistillensError(
        f"{problem}; the server computes no log-likelihoods of a prompt: drop --loglikelihood"
    )


def signature_text(num_ids: int, max_length: int) -> tuple[int, ...]:
    """Token ids from all over the vocabulary: on unlikely ones other weights differ most.

    Args:
        max_length: a shorter text is a longer one's beginning.
    """
    all_ids = (place * num_ids // _SIGNATURE_TOKENS for place in range(_SIGNATURE_TOKENS))
    return tuple(all_ids)[:max_length]


def ask_log_probs(
    connection: Connection,
    token_ids: Sequence[int],
    form: LikelihoodForm,
    *,
    ask: Callable[[dict[str, Any]], Completion],
) -> tuple[float, ...]:
    """Of each token after the first, in nats.

    Args:
        ask: the connection's `ask`, or its `ask_once`.
    Raises:
        RunFailure: the server does not give them.
    """
    item = Continuation(tuple(token_ids[:1]), tuple(token_ids[1:]))
    completion = ask(likelihood_body(item, served=connection.served, form=form))
    return tuple(read_log_probs(completion, token_ids, form, where=connection.where))


def _body(connection: Connection, prompt_ids: Sequence[int], form: AnswerForm) -> dict[str, Any]:
    request = Request(tuple(prompt_ids), seed=0)
    return completion_body(
        request, _ONE_TOKEN, served=connection.served, form=form, stop_token_ids=()
    )


def _check_prompt(
    connection: Connection, completion: Completion, prompt_ids: Sequence[int]
) -> None:
    read_ids = completion.choices[0].prompt_token_ids
    num_read = completion.usage.prompt_tokens if completion.usage is not None else None
    if read_ids is not None:
        is_same = read_ids == list(prompt_ids)
    else:
        is_same = num_read in (None, len(prompt_ids))
    if not is_same:
        raise DistillensError(
            f"{connection.where}: it read the prompt of {len(prompt_ids)} token ids as "
            f"{num_read if read_ids is None else len(read_ids)} other tokens; expected a server "
            "that takes token ids as they are, such as vLLM or SGLang"
        )
