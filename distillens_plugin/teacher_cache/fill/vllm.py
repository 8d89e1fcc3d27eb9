"""`--model vllm`: a teacher in a vLLM server of our own, which lives as long as the fill.

The server is a child process of an interpreter that has vLLM: this one, or `python=PATH` where vLLM
is in an environment of its own. It is asked in the same way as a server that somebody else has
started; its GPU memory is free as soon as it ends, and a killed parent takes it along.
"""

import json
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.scratch import Scratch
from distillens_plugin.teacher_cache.fill.states_client import StatesClient
from distillens_plugin.teacher_cache.fill.vllm_answers import identity_of
from distillens_plugin.teacher_cache.fill.vllm_process import (
    VllmProcess,
    absolute_python,
    check_python,
)
from distillens_plugin.teacher_cache.fill.wanted import Wanted
from distillens_plugin.vllm_states.flags import check_names
from eval_harness.errors import DistillensError, RunFailure

# Set here besides those of `vllm_states.flags`; the refusal names what to give instead.
_OURS = {
    "model": "models.teacher_model in the recipe",
    "pretrained": "models.teacher_model in the recipe",
    "tokenizer": "models.teacher_model in the recipe",
    "peft": "a merged model",
    "generation_config": "nothing",
    "host": "nothing",
    "port": "nothing",
    "seed": "nothing",
    "trust_remote_code": "--model hf",
}
# One answer: the engine may first have to read all prompts that were sent before.
_ANSWER_TIMEOUT_S = 3600.0


class VllmEngine:
    """States from a vLLM of our own.

    Args:
        wanted: teacher and layers.
        arguments: of --model_args: `python`, and what else vLLM takes (tensor_parallel_size, ...).
        beside: the cache's folder; files that wait to be stored are put into one inside it.
    Raises:
        DistillensError: an argument that cannot be given, or no vLLM to be found.
        RunFailure: vLLM does not start.
    """

    def __init__(self, wanted: Wanted, arguments: dict[str, Any], *, beside: Path) -> None:
        given = dict(arguments)
        python = absolute_python(str(given.pop("python", sys.executable)))
        wanted.check()
        flags = vllm_flags(given, wanted)
        check_python(python)
        self._wanted = wanted
        self._scratch = Scratch(beside)
        address = f"127.0.0.1:{_free_port()}"
        host, port = address.split(":")
        command = wanted.command(self._scratch.folder, python=python)
        command += ["--ends-with-stdin", "--host", host, "--port", port, *flags]
        self._process = VllmProcess(command, log=self._scratch.log)
        self._client = StatesClient(
            f"http://{address}",
            self._scratch.folder,
            timeout_s=_ANSWER_TIMEOUT_S,
            file_timeout_s=_ANSWER_TIMEOUT_S,
            patient=False,
            check_alive=self._process.check_alive,
        )
        try:
            self._process.wait_until_ready(f"http://{address}/health")
            self._client.ask(FillRow("(the first request)", [0, 0], [0]), wanted.layers)
            assert self._client.facts is not None
            self.identity = identity_of(self._client.facts)
        except BaseException:
            self.close()
            raise

    def states(self, rows: Sequence[FillRow], layers: Sequence[int]) -> Iterator[RowStates]:
        """As `StatesEngine.states`."""
        assert list(layers) == self._wanted.layers
        try:
            yield from self._client.states(rows, layers)
        except RunFailure:
            # A dead engine is the reason, and the failed request only its consequence.
            self._process.check_alive(patience_s=5.0)
            raise

    def close(self) -> None:
        """Ends vLLM and removes what it has written."""
        self._process.close()
        self._scratch.close()


def vllm_flags(arguments: dict[str, Any], wanted: Wanted) -> list[str]:
    """Flags of `vllm serve` for --model_args.

    Args:
        arguments: by name, as Python's vllm.LLM takes them.
        wanted: gives max_model_len and dtype where they are not given.
    Raises:
        DistillensError: one that cannot be given, or a max_model_len that is too short.
    """
    check_names(list(arguments))
    for key, instead in _OURS.items():
        if key in arguments:
            raise DistillensError(f"--model_args {key}: cannot be given here; give {instead}")
    limit = arguments.get("max_model_len", wanted.longest)
    if not isinstance(limit, int) or limit < wanted.longest:
        raise DistillensError(
            f"--model_args max_model_len={limit}: expected at least {wanted.longest}, the longest "
            "row"
        )
    settings = {"max_model_len": limit, "dtype": _dtype(wanted), **arguments}
    flags = ["--seed", "0", "--disable-log-stats", "--uvicorn-log-level", "warning"]
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            flags += [f"--{name}", text]
    return flags


def _dtype(wanted: Wanted) -> str:
    """The checkpoint's own: vLLM's "auto" would silently make float32 a smaller type."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(wanted.model, trust_remote_code=False).dtype
    return str(dtype or "float32").removeprefix("torch.")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
