"""`--model server`: a teacher in a vLLM server that somebody has started with our connector."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.states_client import StatesClient, StatesMissing
from distillens_plugin.teacher_cache.fill.vllm_answers import EngineFacts, identity_of
from distillens_plugin.teacher_cache.fill.wanted import Wanted
from distillens_plugin.vllm_states.exchange import FORMAT, digest, digest_of_all
from eval_harness.errors import DistillensError, RunFailure

# A file of a few bytes; network drives show new ones after some seconds.
PROBE_TIMEOUT_S = 30.0
_KNOWN = ("base_url", "folder", "timeout_s")


class ServerEngine:
    """States from a server and a folder that it and this machine share.

    Args:
        wanted: teacher and layers.
        arguments: base_url, folder, and timeout_s (600) for one answer.
    Raises:
        DistillensError: an argument is missing or unknown, or the server is not one that gives
            these states; the line has the command that starts one.
    """

    def __init__(self, wanted: Wanted, arguments: dict[str, Any]) -> None:
        self._wanted = wanted
        self._folder = _folder(arguments)
        timeout_s = _timeout_s(arguments)
        self._client = StatesClient(
            arguments["base_url"],
            self._folder,
            timeout_s=timeout_s,
            file_timeout_s=PROBE_TIMEOUT_S,
            patient=True,
        )
        wanted.check()
        facts = self._check()
        self._checked = facts
        self.identity = identity_of(facts)
        # A server that writes 64 large files at once over a network takes longer than for one.
        self._client = StatesClient(
            arguments["base_url"],
            self._folder,
            timeout_s=timeout_s,
            file_timeout_s=timeout_s,
            patient=True,
        )

    def _check(self) -> EngineFacts:
        """What the server says about itself, after one small request."""
        try:
            limit = self._client.max_length()
        except RunFailure as error:
            raise self._refusal(f"{error}") from error
        where = self._client.base_url
        if limit < self._wanted.longest:
            raise self._refusal(
                f"{where}: found max_model_len {limit}, expected at least {self._wanted.longest}"
            )
        probe = FillRow("(the first request)", [0, 0], [0])
        problem = None
        try:
            result = self._client.ask(probe, self._wanted.layers)
        except StatesMissing:
            result, problem = None, f"its folder {self._facts_folder()} is not {self._folder}"
        except RunFailure as error:
            # Other layers, another format: said better below.
            result, problem = None, str(error)
        finally:
            self._client.clear()
        facts = self._client.facts
        if facts is None:
            raise self._refusal(problem or f"{where}: found a server without our connector")
        if facts.format != FORMAT:
            raise self._refusal(f"{where}: found format {facts.format}, expected {FORMAT}")
        # A server whose installation is older says the second.
        if facts.model not in (digest(self._wanted.model), digest_of_all(self._wanted.model)):
            raise self._refusal(f"{where}: serves another model than {self._wanted.model}")
        if facts.layers != self._wanted.layers:
            raise self._refusal(
                f"{where}: found layers {facts.layers}, expected {self._wanted.layers}"
            )
        if result is None:
            raise self._refusal(f"{where}: {problem}")
        return facts

    def _facts_folder(self) -> str:
        return self._client.facts.folder if self._client.facts is not None else "(unknown)"

    def _refusal(self, text: str) -> DistillensError:
        return DistillensError(
            f"{text}; start one with: {self._wanted.shown_command(self._folder)}"
        )

    def states(self, rows: Sequence[FillRow], layers: Sequence[int]) -> Iterator[RowStates]:
        """As `StatesEngine.states`."""
        assert list(layers) == self._wanted.layers
        yield from self._client.states(rows, layers, self._checked)

    def close(self) -> None:
        """Removes files that nobody has taken; the server stays."""
        self._client.clear()


def _folder(arguments: dict[str, Any]) -> Path:
    for key in arguments:
        if key not in _KNOWN:
            raise DistillensError(
                f"--model_args {key}: unknown for --model server; expected {', '.join(_KNOWN)}"
            )
    for key in ("base_url", "folder"):
        if not isinstance(arguments.get(key), str):
            raise DistillensError(
                "--model server: expected --model_args base_url=http://HOST:PORT,folder=DIR, the "
                "folder that its states are written to"
            )
    address = urlsplit(arguments["base_url"])
    if address.scheme not in ("http", "https") or not address.netloc:
        raise DistillensError(
            f"--model_args base_url={arguments['base_url']}: expected an address, such as "
            "http://HOST:PORT"
        )
    folder = Path(arguments["folder"])
    if not folder.is_dir():
        raise DistillensError(f"--model_args folder={folder}: found no folder there; make it first")
    return folder.absolute()


def _timeout_s(arguments: dict[str, Any]) -> float:
    value = arguments.get("timeout_s", 600)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise DistillensError(
            f"--model_args timeout_s={value}: expected a number of seconds above 0, such as 600"
        )
    return float(value)
