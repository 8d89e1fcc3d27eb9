"""A running vLLM server, over HTTP: sample, score, and replace its weights.

It must be started with VLLM_SERVER_DEV_MODE=1, which opens the two calls that replace weights:
`/collective_rpc` (its workers' reload_weights reads a folder) and `/reset_prefix_cache`. Prompts
and answers are token ids, so the server's tokenizer is not involved.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distillens_plugin.on_policy.vllm_messages import (
    Models,
    Results,
    Sampled,
    Scored,
    Success,
)
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.endpoint.http_json import JsonClient
from eval_harness.shared.endpoint.messages import read

# With --generation-config vllm the server adds nothing of the model's generation_config.json.
START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve STUDENT --max-model-len {max_length} "
    "--generation-config vllm"
)
# Requests in flight at once from one process; vLLM batches them.
_MAX_THREADS = 64


class VllmClient:
    """Client of one server.

    Args:
        base_url: such as http://localhost:8000.
        timeout_s: longest wait for one answer, retries included, in seconds.
    """

    def __init__(self, base_url: str, *, timeout_s: float) -> None:
        self._client = JsonClient(base_url, timeout_s=timeout_s)
        self.base_url = self._client.base_url

    @property
    def num_retries(self) -> int:
        """Requests that failed and were repeated: the server may have been restarted."""
        return self._client.num_retries

    def check(self, *, max_length: int) -> None:
        """Asks the server what it is, before anything expensive starts.

        Args:
            max_length: longest prompt and answer together, in tokens.
        Raises:
            DistillensError: it does not answer or accept weights, or its context is too short.
        """
        start = START.format(max_length=max_length)
        path = "/v1/models"
        try:
            answer = self._client.ask("GET", path, patient=False)
            limit = read(Models, answer, self.base_url + path).data[0].max_model_len
        except RunFailure as error:
            raise DistillensError(
                f"{self.base_url}: expected a vLLM server ({error}); start one with: {start}"
            ) from None
        if limit < max_length:
            raise DistillensError(
                f"{self.base_url}: its --max-model-len is {limit}, but a prompt and its answer "
                f"have up to {max_length} tokens here; start it with: {start}"
            )
        try:
            self._forget_prompts(patient=False)
        except RunFailure as error:
            raise DistillensError(
                f"{self.base_url}: does not accept weights ({error}); start it with: {start}"
            ) from None

    def load_weights(self, folder: Path) -> None:
        """Replaces the server's weights with those of a model folder that it can read.

        Raises:
            RunFailure: the server cannot load them.
        """
        path = "/collective_rpc"
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        read(Results, self._client.ask("POST", path, body), self.base_url + path)
        # Its cache of earlier prompts was computed with the old weights.
        self._forget_prompts()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_new_tokens: Sequence[int],
        temperature: float,
        top_p: float,
        eos_id: int,
        end_ids: Sequence[int] = (),
        num_ids: int | None = None,
        vocab_size: int | None = None,
    ) -> list[list[int]]:
        """One answer per prompt, as token ids, up to and including its end token if it has one.

        Args:
            seeds: of each prompt, below 2^63; an answer depends on its own seed alone.
            eos_id: ends an answer, as every one of `end_ids` does.
            num_ids: ids from here up to `vocab_size` are never to be sampled.
        Raises:
            RunFailure: a request fails, or an answer is not what was asked for.
        """
        ends = list(dict.fromkeys([eos_id, *end_ids]))
        shared: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            # A server takes what is not set here from the model's generation_config.json.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "n": 1,
            "min_tokens": 0,
            # The end tokens in the model's files may not be those that are trained.
            "ignore_eos": True,
            "stop_token_ids": ends,
            "return_token_ids": True,
        }
        if num_ids is not None and vocab_size is not None and num_ids < vocab_size:
            # -100 is the protocol's minimum; an id that is sampled all the same is refused.
            shared["logit_bias"] = {str(token): -100.0 for token in range(num_ids, vocab_size)}
        bodies = [
            {**shared, "prompt": list(prompt), "seed": seed, "max_tokens": limit}
            for prompt, seed, limit in zip(prompts, seeds, max_new_tokens, strict=True)
        ]

        def one(body: dict[str, Any]) -> list[int]:
            return self._sample_one(body, ends, num_ids)

        with ThreadPoolExecutor(max_workers=min(len(bodies), _MAX_THREADS) or 1) as pool:
            return list(pool.map(one, bodies))

    def _sample_one(self, body: dict[str, Any], ends: list[int], num_ids: int | None) -> list[int]:
        path = "/v1/completions"
        # Without the model's name: a server has one, and only the main process has asked for it.
        answer = read(Sampled, self._client.ask("POST", path, body), self.base_url + path)
        (choice,) = answer.choices
        ids, limit = choice.token_ids, body["max_tokens"]
        where = f"{self.base_url}{path}: choices[0]"
        if num_ids is not None and max(ids) >= num_ids:
            raise RunFailure(
                f"{where}.token_ids: found the id {max(ids)}, expected ids below {num_ids}, which "
                "the tokenizer and both models have; is it serving this student?"
            )
        if len(ids) > limit:
            raise RunFailure(f"{where}.token_ids: found {len(ids)} ids, expected at most {limit}")
        place = next((i for i, token in enumerate(ids) if token in ends), None)
        if place is None and len(ids) < limit:
            raise RunFailure(
                f"{where}: the answer ends after {len(ids)} of {limit} tokens without an end token "
                f"(finish_reason {choice.finish_reason!r}); start the server with "
                "--generation-config vllm"
            )
        if place is not None and place + 1 < len(ids):
            raise RunFailure(
                f"{where}.token_ids: the answer continues after the end token {ids[place]}, which "
                "is in stop_token_ids"
            )
        return ids

    def log_probabilities(self, token_ids: Sequence[int]) -> list[float]:
        """Of each token after the first, given those before it, in nats.

        Raises:
            RunFailure: the request fails, or some of them are missing from the answer.
        """
        path = "/v1/completions"
        body = {
            "prompt": list(token_ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        answer = read(Scored, self._client.ask("POST", path, body), self.base_url + path)
        scored = answer.choices[0].prompt_logprobs
        where = f"{self.base_url}{path}: choices[0].prompt_logprobs"
        if len(scored) != len(token_ids):
            raise RunFailure(
                f"{where}: found {len(scored)} entries, expected {len(token_ids)}, one per token"
            )
        found = []
        for place, (token, entry) in enumerate(zip(token_ids, scored, strict=True)):
            if place == 0:
                continue
            if entry is None or str(token) not in entry:
                raise RunFailure(f"{where}[{place}]: found no token {token}, which was asked for")
            found.append(entry[str(token)].logprob)
        assert all(math.isfinite(value) for value in found)  # Message
        return found

    def _forget_prompts(self, *, patient: bool = True) -> None:
        path = "/reset_prefix_cache"
        answer = self._client.ask("POST", path, {}, patient=patient)
        if not read(Success, answer, self.base_url + path).success:
            raise RunFailure(
                f"{self.base_url}: cannot clear its prompt cache while it answers other requests; "
                "give this run its own server"
            )
