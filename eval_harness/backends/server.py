"""`--model server`: a model behind an OpenAI-compatible endpoint, such as `vllm serve` or SGLang.

Prompts are made and tokenised here, and go out as token ids; a request's seed goes with it, so that
the same request gives the same answer before and after the server or the run was killed. The
server's weights cannot be seen: the fingerprint has what it says about them, and the files of the
folder that is named here.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

from eval_harness.backends.base import (
    Answer,
    Backend,
    Continuation,
    LogLikelihood,
    Request,
    Sampling,
    plan_order,
)
from eval_harness.backends.server_arguments import ARGUMENTS, address_of, checked_arguments
from eval_harness.backends.server_connection import Connection, ServerAwayFailure
from eval_harness.backends.server_messages import Completion
from eval_harness.backends.server_probe import (
    ask_log_probs,
    check_length,
    find_form,
    find_likelihood_form,
    signature_text,
)
from eval_harness.backends.server_requests import (
    Generated,
    LikelihoodForm,
    completion_body,
    likelihood_body,
    read_answer,
    read_log_probs,
)
from eval_harness.backends.server_threads import in_parallel
from eval_harness.backends.signatures import LARGEST_DIFFERENCE, difference_of
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.identity import ModelFiles

_PROBE_TEXT = "What is the answer?"
_MOST_PROBE_TOKENS = 16


class ServerBackend(Backend):
    """A server that somebody else has started.

    Args:
        facts: from `described`.
        arguments: from `arguments`.
        max_length: longest prompt and answer together, in tokens.
    Raises:
        DistillensError: the server is another than before, takes no token ids, or has too short a
            context.
    """

    name = "server"
    known_arguments = ARGUMENTS
    # `model` is in what the server says about itself.
    layout_arguments = frozenset(ARGUMENTS)
    needs_transformers_model = False
    one_process = (
        "one process keeps the server busy; start it without a launcher, and give num_concurrent=N "
        "in --model_args"
    )
    needs_weights = False
    has_signature = True

    def __init__(self, facts: ModelFiles, arguments: dict[str, Any], *, max_length: int) -> None:
        super().__init__(facts)
        self._connection = Connection(address_of(arguments))
        served = self._connection.served
        if served.identity() != facts.identity["server"]:
            raise DistillensError(
                f"{self._connection.address.base_url}: it became another server while this run "
                "prepared its prompts; repeat the command"
            )
        ids = facts.tokenizer.encode(_PROBE_TEXT, add_special_tokens=False)
        self._probe_ids: list[int] = (ids or [0, 0])[:_MOST_PROBE_TOKENS]
        check_length(self._connection, max_length, self._probe_ids[0])
        self._form = find_form(self._connection, self._probe_ids)
        self._max_length = max_length
        self._likelihood_form: LikelihoodForm | None = None
        self._signature = self._find_signature()
        self._connection.check_weights = self._check_weights
        engine = " ".join(part for part in (served.engine, served.version) if part) or "a server"
        _say(
            f"{self._connection.address.base_url}: {engine} with {served.id}; answers come as "
            f"{self._form.value}"
        )
        if self._signature is None:
            _say(
                "WARNING: the server gives no log-probabilities of a prompt, so that other weights "
                "under the same name would not be noticed"
            )

    @classmethod
    def arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        return checked_arguments(given)

    @classmethod
    def described(cls, facts: ModelFiles, arguments: dict[str, Any]) -> ModelFiles:
        """The facts with what the server says: its name for the model, where it is from, versions.

        Raises:
            DistillensError: it does not answer or lacks the model; or there is an adapter, which
                only the server can load.
        """
        if facts.adapter is not None:
            raise DistillensError(
                "--model_args peft: the server must load an adapter (vllm serve --enable-lora "
                "--lora-modules NAME=DIR); give model=NAME instead"
            )
        served = Connection(address_of(arguments)).served
        return dataclasses.replace(
            facts, name=served.id, identity={**facts.identity, "server": served.identity()}
        )

    @classmethod
    def load(
        cls,
        facts: ModelFiles,
        arguments: dict[str, Any],
        *,
        max_length: int,
        no_repeat_ngrams: bool,
        trust_remote_code: bool,
    ) -> "ServerBackend":
        if no_repeat_ngrams:
            raise DistillensError(
                "no_repeat_ngram_size: a server does not have this rule (the protocol minillm sets "
                "it); use --model vllm or hf, or --gen_kwargs no_repeat_ngram_size=0"
            )
        return cls(facts, arguments, max_length=max_length)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, done: frozenset[int] = frozenset()
    ) -> Iterator[Answer]:
        stops = (*self.facts.stop_token_ids, *sampling.stop_token_ids)

        def answer(request: Request, stop: Event | None = None) -> Generated:
            body = completion_body(
                request,
                sampling,
                served=self._connection.served,
                form=self._form,
                stop_token_ids=stops,
            )
            return read_answer(
                self._connection.ask(body, stop),
                sampling,
                served=self._connection.served,
                form=self._form,
                stop_token_ids=stops,
                num_ids=self.facts.num_ids,
                where=self._connection.where,
            )

        asked = [index for index in plan_order(requests) if index not in done]
        if asked and sampling.temperature > 0:
            first = requests[asked[0]]
            if answer(first) != answer(first):
                _say(
                    "WARNING: one request with one seed got two answers from the server, so "
                    "answers cannot be repeated (SGLang: --enable-deterministic-inference)"
                )
        found = in_parallel(
            asked,
            lambda index, stop: answer(requests[index], stop),
            num_threads=self._connection.address.num_concurrent,
        )
        for index, generated in found:
            ids = generated.token_ids
            if ids is None:
                assert generated.text is not None
                ids = self.facts.tokenizer.encode(generated.text, add_special_tokens=False)
            yield Answer(index, ids, generated.finish_reason, text=generated.text)

    def signature(self) -> tuple[float, ...] | None:
        return self._signature

    def _find_signature(self) -> tuple[float, ...] | None:
        try:
            self.check_log_likelihoods()
        except ServerAwayFailure:
            raise
        except DistillensError:
            return None
        return self._ask_signature(self._connection.ask)

    def _ask_signature(self, ask: Callable[[dict[str, Any]], Completion]) -> tuple[float, ...]:
        assert self._likelihood_form is not None
        text = signature_text(len(self.facts.tokenizer), self._max_length - 1)
        return ask_log_probs(self._connection, text, self._likelihood_form, ask=ask)

    def _check_weights(self) -> None:
        if self._signature is None:
            return
        # Called where `ask` waits, which asks again.
        now = self._ask_signature(self._connection.ask_once)
        difference = difference_of(self._signature, now)
        if difference > LARGEST_DIFFERENCE:
            raise RunFailure(
                f"{self._connection.address.base_url}: it was restarted with other weights (its "
                f"log-probabilities of a fixed text differ by {difference:.2g} nats); start it as "
                "before, and repeat the command"
            )

    def check_log_likelihoods(self) -> None:
        """Refuses a server that computes none.

        Raises:
            DistillensError: it does not.
        """
        if self._likelihood_form is None:
            ids = self._probe_ids if len(self._probe_ids) > 1 else self._probe_ids * 2
            self._likelihood_form = find_likelihood_form(self._connection, ids)

    def log_likelihoods(self, continuations: Sequence[Continuation]) -> Iterator[LogLikelihood]:
        self.check_log_likelihoods()
        form = self._likelihood_form
        assert form is not None

        def total(index: int, stop: Event) -> float:
            item = continuations[index]
            body = likelihood_body(item, served=self._connection.served, form=form)
            ids = [*item.prompt_ids, *item.token_ids]
            where = self._connection.where
            found = read_log_probs(self._connection.ask(body, stop), ids, form, where=where)
            return math.fsum(found[-len(item.token_ids) :])

        num_threads = self._connection.address.num_concurrent
        for index, value in in_parallel(range(len(continuations)), total, num_threads=num_threads):
            yield LogLikelihood(index, value)


def _say(message: str) -> None:
    print(f"eval-harness: {message}", file=sys.stderr, flush=True)
