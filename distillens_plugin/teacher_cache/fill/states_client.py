"""Asks a vLLM server with our connector for states: one prompt a request, several in flight.

Legend: N supervised positions of a row, K layers, D width.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.vllm_answers import (
    EngineFacts,
    ServedModels,
    StatesAnswer,
    StatesChoice,
    identity_of,
)
from distillens_plugin.vllm_states.exchange import take_states
from eval_harness.errors import RunFailure
from eval_harness.shared.endpoint.http_json import JsonClient
from eval_harness.shared.endpoint.messages import read

_PATH = "/v1/completions"
_MAX_THREADS = 64
# States that are on disk or in memory and not stored yet.
_MAX_BYTES = 2**30
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1


class StatesMissing(RunFailure):
    """A request was answered, and its file has not come."""


class StatesClient:
    """Client of one server.

    Args:
        base_url: such as http://localhost:8000.
        folder: where the server's files are seen from here.
        timeout_s: longest wait for one answer, in seconds.
        file_timeout_s: longest wait for a file after its answer, in seconds.
        patient: repeat a request that fails because the server is busy or restarted.
        check_alive: raises where waiting any longer is of no use.
    """

    def __init__(
        self,
        base_url: str,
        folder: Path,
        *,
        timeout_s: float,
        file_timeout_s: float,
        patient: bool,
        check_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = JsonClient(base_url, timeout_s=timeout_s)
        self._folder = folder
        self._file_timeout_s = file_timeout_s
        self._patient = patient
        self._check_alive = check_alive
        # Another program may use the same folder.
        self._run, self._numbers = secrets.token_hex(8), count(1)
        self.base_url = self._client.base_url
        self.facts: EngineFacts | None = None

    def max_length(self) -> int:
        """Most tokens of a prompt and its answer.

        Raises:
            RunFailure: nothing answers there, or not in the way of a vLLM server.
        """
        answer = self._client.ask("GET", "/v1/models", patient=False)
        return read(ServedModels, answer, f"{self.base_url}/v1/models").data[0].max_model_len

    def ask(
        self, row: FillRow, layers: Sequence[int], expected: EngineFacts | None = None
    ) -> RowStates | None:
        """States of a row; None: the server has answered, but has no connector of ours.

        Args:
            expected: what the server has said about itself, to be compared with what it says now:
                it may be started anew between two rows.
        Raises:
            StatesMissing: its file has not come.
            RunFailure: the request failed, or another engine has answered it.
        """
        name = f"{self._run}-{next(self._numbers)}"
        end = row.positions[-1] + 1
        body = {
            # Later tokens change nothing, and the one after the last position need not be read:
            # as the only answer that is allowed, it is sampled and its log-probability given.
            "prompt": row.input_ids[:end],
            "allowed_token_ids": [row.input_ids[end]],
            "max_tokens": 1,
            "temperature": 0.0,
            "ignore_eos": True,
            "logprobs": 0,
            "prompt_logprobs": 0,
            "return_token_ids": True,
            "kv_transfer_params": {"name": name, "positions": row.positions},
        }
        found = self._client.ask("POST", _PATH, body, patient=self._patient)
        answer = read(StatesAnswer, found, self.base_url + _PATH)
        if answer.kv_transfer_params is None:
            return None
        # Of this answer: others, in other threads, replace self.facts meanwhile.
        self.facts = facts = answer.kv_transfer_params.facts
        if answer.kv_transfer_params.error is not None:
            raise RunFailure(
                f"{self.base_url}: row {row.row_id}: {answer.kv_transfer_params.error}"
            )
        log_probs = _log_probs(row, answer.choices[0], self.base_url)
        if facts.layers != list(layers):
            raise RunFailure(
                f"{self.base_url}: found states of layers {facts.layers}, expected {list(layers)}"
            )
        if expected is not None:
            _check_same(facts, expected, self.base_url)
        states_NKD = self._await(name, row)
        states = {k: states_NKD[:, i].contiguous() for i, k in enumerate(layers)}
        return RowStates(row.row_id, states, log_probs)

    def states(
        self, rows: Sequence[FillRow], layers: Sequence[int], expected: EngineFacts | None = None
    ) -> Iterator[RowStates]:
        """As `StatesEngine.states`; at most a GiB of states waits on disk and in memory.

        Args:
            expected: as in `ask`.
        """
        pool = ThreadPoolExecutor(max_workers=_MAX_THREADS)
        running: dict[Future[RowStates | None], FillRow] = {}
        left, row_bytes = iter(rows), 0.0
        try:
            while True:
                # The first row alone says how large states are.
                room = min(_MAX_THREADS, _MAX_BYTES / row_bytes) if row_bytes else 1
                while len(running) < max(1, room) and (row := next(left, None)) is not None:
                    running[pool.submit(self.ask, row, layers, expected)] = row
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    row, result = running.pop(future), future.result()
                    if result is None:
                        raise RunFailure(f"{self.base_url}: row {row.row_id}: found no states")
                    size = sum(state.nbytes for state in result.states.values())
                    row_bytes = max(row_bytes, size)
                    yield result
        finally:
            for future in running:
                future.cancel()
            pool.shutdown()
            self.clear()

    def clear(self) -> None:
        """Removes files of this run that nobody has taken."""
        for path in self._folder.glob(f"{self._run}-*"):
            path.unlink(missing_ok=True)

    def _await(self, name: str, row: FillRow) -> Tensor:
        """States [N, K, D] of a request that has been answered; they are written meanwhile."""
        deadline, pause_s = time.monotonic() + self._file_timeout_s, _FIRST_PAUSE_S
        while True:
            try:
                states = take_states(self._folder, name)
            except OSError as error:
                raise RunFailure(
                    f"{self.base_url}: the states of row {row.row_id} could not be written or read "
                    f"({error})"
                ) from error
            if states is not None:
                break
            self._check_alive()
            if time.monotonic() >= deadline:
                raise StatesMissing(
                    f"{self.base_url}: row {row.row_id}: its states have not appeared in "
                    f"{self._folder}"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if states.ndim != 3 or len(states) != len(row.positions):
            raise RunFailure(
                f"{self.base_url}: row {row.row_id}: found states of shape {list(states.shape)}, "
                f"expected {len(row.positions)} positions"
            )
        return states


def _check_same(facts: EngineFacts, expected: EngineFacts, where: str) -> None:
    own = {**identity_of(facts), "model": facts.model}
    before = {**identity_of(expected), "model": expected.model}
    if own != before:
        key = next(key for key in own if own[key] != before[key])
        raise RunFailure(
            f"{where}: has become another engine while it was asked: {key}: found {own[key]}, "
            f"expected {before[key]}; start the first one again, and repeat the command"
        )


def _log_probs(row: FillRow, choice: StatesChoice, where: str) -> Tensor:
    """[N] of the tokens after the row's positions, in nats."""
    end = row.positions[-1] + 1
    if len(choice.prompt_logprobs) != end or choice.token_ids[0] != row.input_ids[end]:
        raise RunFailure(
            f"{where}: row {row.row_id}: found {len(choice.prompt_logprobs)} log-probabilities and "
            f"the token {choice.token_ids[0]}, expected {end} and {row.input_ids[end]}"
        )
    values = []
    for position in row.positions[:-1]:
        token = str(row.input_ids[position + 1])
        entry = choice.prompt_logprobs[position + 1]
        if entry is None or token not in entry:
            raise RunFailure(f"{where}: row {row.row_id}: found no log-probability of {token}")
        values.append(entry[token].logprob)
    return torch.tensor([*values, choice.logprobs.token_logprobs[0]])
