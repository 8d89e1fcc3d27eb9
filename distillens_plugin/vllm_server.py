"""A running vLLM server, over HTTP: sample, score, and take other weights.

It must be started with VLLM_SERVER_DEV_MODE=1, which opens the two calls that exchange weights:
`/collective_rpc` (its workers' reload_weights reads a folder) and `/reset_prefix_cache`. Prompts
and answers are token ids, so no tokenizer of the server comes in between.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from eval_harness.errors import DistillensError, RunFailure

START = "VLLM_SERVER_DEV_MODE=1 vllm serve STUDENT --max-model-len {max_length}"
# Requests in flight at once from one process; vLLM batches them.
_MAX_THREADS = 64


class VllmServer:
    """Client of one server.

    Args:
        base_url: such as http://localhost:8000.
        timeout_s: longest wait for one answer, in seconds.
    """

    def __init__(self, base_url: str, *, timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=_MAX_THREADS)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def check(self, *, max_length: int) -> None:
        """Asks the server what it is, before anything expensive starts.

        Args:
            max_length: longest prompt and answer together, in tokens.
        Raises:
            DistillensError: it does not answer, takes no weights, or its context is too short.
        """
        start = START.format(max_length=max_length)
        try:
            limit = self._get("/v1/models")["data"][0]["max_model_len"]
        except (RunFailure, LookupError, TypeError) as error:
            raise DistillensError(
                f"{self.base_url}: expected a vLLM server ({error}); start one with: {start}"
            ) from None
        if limit < max_length:
            raise DistillensError(
                f"{self.base_url}: its --max-model-len is {limit}, but a prompt and its answer "
                f"have up to {max_length} tokens here; start it with: {start}"
            )
        try:
            self._forget_prompts()
        except RunFailure as error:
            raise DistillensError(
                f"{self.base_url}: takes no weights ({error}); start it with: {start}"
            ) from None

    def load_weights(self, folder: Path) -> None:
        """Replaces the server's weights with those of a model folder, which it must see as well.

        Raises:
            RunFailure: it cannot.
        """
        self._post(
            "/collective_rpc",
            {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}},
        )
        # What it keeps of earlier prompts was computed with the old weights.
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
    ) -> list[list[int]]:
        """One answer for each prompt, as token ids, up to and with its end token if it has one.

        Args:
            seeds: of each prompt, below 2^63; an answer depends on its own seed alone.
        Raises:
            RunFailure: a request fails.
        """
        shared = {
            "temperature": temperature,
            "top_p": top_p,
            # A server fills what is not said from the model's generation_config.json.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [eos_id],
            "return_token_ids": True,
        }
        bodies = [
            {**shared, "prompt": list(prompt), "seed": seed, "max_tokens": limit}
            for prompt, seed, limit in zip(prompts, seeds, max_new_tokens, strict=True)
        ]
        with ThreadPoolExecutor(max_workers=min(len(bodies), _MAX_THREADS) or 1) as pool:
            return [choice["token_ids"] for choice in pool.map(self._complete, bodies)]

    def log_probabilities(self, token_ids: Sequence[int]) -> list[float]:
        """Of each token after the first, given those before it, in nats.

        Raises:
            RunFailure: the request fails.
        """
        choice = self._complete(
            {"prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        )
        scored = choice["prompt_logprobs"][1:]
        return [
            entry[str(token)]["logprob"] for token, entry in zip(token_ids[1:], scored, strict=True)
        ]

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        # Without the model's name: a server has one, and only the main process has asked for it.
        return self._post("/v1/completions", body)["choices"][0]

    def _forget_prompts(self) -> None:
        if not self._post("/reset_prefix_cache", {}).get("success", True):
            raise RunFailure(
                f"{self.base_url}: cannot forget its prompts while it answers others; give this "
                "run a server of its own"
            )

    def _get(self, path: str) -> Any:
        return self._answer("GET", path, None)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer("POST", path, body)

    def _answer(self, verb: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._session.request(
                verb, self.base_url + path, json=body, timeout=self._timeout_s
            )
        except requests.RequestException as error:
            raise RunFailure(
                f"{self.base_url}{path}: no answer within {self._timeout_s:g} s or no connection "
                f"({type(error).__name__})"
            ) from error
        if not response.ok:
            raise RunFailure(
                f"{self.base_url}{path}: HTTP {response.status_code}: {_reason(response)}"
            )
        try:
            return response.json() if response.content else {}
        except ValueError as error:
            raise RunFailure(f"{self.base_url}{path}: the answer is not JSON") from error


def _reason(response: requests.Response) -> str:
    """One line of what the server says."""
    try:
        said = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        said = response.text or response.reason
    return " ".join(str(said).split())[:300]
