"""Starts `vllm serve` so that it writes its model's states. Runs in vLLM's environment.

    python -m distillens_plugin.vllm_states.serve MODEL --states-folder DIR --states-layers 1,3,4 \\
        [any flag of vllm serve]

vLLM's own extraction is used where it knows the architecture, and hooks elsewhere: a line says so.
"""

import argparse
import importlib.metadata
import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path

from distillens_plugin.vllm_states.flags import Way, check_flags, flags_for, overrides, shown
from eval_harness.errors import DistillensError

OLDEST = (0, 32)


def main() -> None:
    """Reads the flags, says which way is used, and becomes the server."""
    parser = argparse.ArgumentParser(prog="distillens_plugin.vllm_states.serve")
    parser.add_argument("model", type=Path, help="folder of the teacher")
    parser.add_argument("--states-folder", type=Path, required=True, help="where states are put")
    parser.add_argument("--states-layers", type=_layers, required=True, help="such as 1,3,4")
    parser.add_argument("--states-by", choices=["extraction", "hooks"], help="default: as it fits")
    parser.add_argument("--ends-with-stdin", action="store_true", help="end when stdin closes")
    given, vllm_flags = parser.parse_known_args()
    if given.ends_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        command = _command(given, vllm_flags)
    except DistillensError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__")


def _command(given: argparse.Namespace, vllm_flags: list[str]) -> list[str]:
    check_flags(vllm_flags)
    model, layers = given.model, given.states_layers
    folder = given.states_folder.absolute()
    if not (model / "config.json").exists():
        raise DistillensError(f"{model}: found no config.json, expected a model folder")
    if (model / "adapter_config.json").exists():
        raise DistillensError(f"{model}: found an adapter; merge it into its model first")
    if not os.access(folder, os.W_OK):
        raise DistillensError(f"--states-folder {folder}: expected a folder that can be written")
    _check_layers(model, layers)
    way = _way(model, vllm_flags, given.states_by)
    if way is Way.HOOKS:
        # Only that model runner tells which request a token belongs to.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    from vllm.platforms import current_platform

    own = flags_for(way, folder=folder, layers=layers)
    print(f"states: by {way.value} ({shown(['vllm', 'serve', str(model), *own])})", flush=True)
    sized = any(flag.startswith("--kv-cache-memory-bytes") for flag in vllm_flags)
    if current_platform.is_cpu() and not sized and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        # Without a size for its cache vLLM does not start on a CPU.
        own += ["--kv-cache-memory-bytes", str(2**30)]
    return [*_entry(), str(model), *own, *vllm_flags]


def _entry() -> list[str]:
    """Module and first words of vLLM's server."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        # Its command line asks for that distribution, which builds for a CPU call otherwise.
        return ["vllm.entrypoints.openai.api_server", "--model"]
    return ["vllm.entrypoints.cli.main", "serve"]


def _layers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def _check_layers(model: Path, layers: list[int]) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    last = config.get_text_config().num_hidden_layers
    wrong = [k for k in layers if not 0 <= k <= last]
    if wrong:
        raise DistillensError(
            f"--states-layers: found {wrong[0]}, expected 0 (embeddings) to {last} (all blocks)"
        )


def _way(model: Path, vllm_flags: list[str], asked: str | None) -> Way:
    """How this vLLM can give the states of the model's architecture."""
    import vllm
    from vllm.model_executor.models.interfaces import supports_eagle3
    from vllm.model_executor.models.registry import ModelRegistry

    version = tuple(int(part) for part in vllm.__version__.split(".")[:2] if part.isdigit())
    if version < OLDEST:
        raise DistillensError(
            f"vllm {vllm.__version__}: states have wrong lengths before 0.32; install that or later"
        )
    if asked is not None:
        return Way(asked)
    config = json.loads((model / "config.json").read_text("utf-8")) | overrides(vllm_flags)
    names = config.get("architectures") or []
    known = [name for name in names if name in ModelRegistry.models]
    # What vLLM does not know it runs by way of transformers.
    loaded = ModelRegistry.models[known[0] if known else "TransformersForCausalLM"].load_model_cls()
    return Way.EXTRACTION if supports_eagle3(loaded) else Way.HOOKS


def _end_with_stdin() -> None:
    """Ends this process and those that it has started once the program that started it is gone."""
    # Not sys.stdin, whose lock a thread must not hold when Python ends.
    while os.read(0, 1024):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
