"""Flags of `vllm serve` that make it write states, and those that cannot be given beside them."""

import json
import shlex
from enum import Enum
from pathlib import Path

from distillens_plugin.vllm_states.settings import FOLDER, LAYERS
from eval_harness.errors import DistillensError

# What is set here, or would make the states wrong; the refusal says why.
_OURS = {
    "speculative-config": "states come through it",
    "kv-transfer-config": "states come through it",
    "worker-cls": "states come through it",
    "worker-extension-cls": "states come through it",
    "enable-lora": "merge the adapter into the teacher",
    "lora-modules": "merge the adapter into the teacher",
    "pipeline-parallel-size": "use tensor_parallel_size",
    "decode-context-parallel-size": "use tensor_parallel_size",
    "prefill-context-parallel-size": "use tensor_parallel_size",
    "data-parallel-size": "fill shards of the cache on several machines instead",
    "api-server-count": "one is enough",
    "logprobs-mode": "the teacher's own log-probabilities are checked",
    "runner": "the teacher generates",
    "task": "the teacher generates",
}
_SHORT = {
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-dcp": "decode-context-parallel-size",
    "-pcp": "prefill-context-parallel-size",
}


class Way(Enum):
    """How states are taken out of vLLM."""

    EXTRACTION = "extraction"
    HOOKS = "hooks"


def check_flags(flags: list[str]) -> None:
    """Refuses flags of vLLM that do not go together with states.

    Raises:
        DistillensError: names the flag and what to do.
    """
    for flag in flags:
        typed = flag.split("=")[0]
        name = _SHORT.get(typed, typed.removeprefix("--").replace("_", "-"))
        if typed.startswith("-") and name in _OURS:
            raise DistillensError(f"{typed}: cannot be given here; {_OURS[name]}")


def check_names(names: list[str]) -> None:
    """The same for names without dashes, as in --model_args.

    Raises:
        DistillensError: names the argument and what to do.
    """
    for name in names:
        reason = _OURS.get(name.replace("_", "-"))
        if reason is not None:
            raise DistillensError(f"--model_args {name}: cannot be given here; {reason}")


def flags_for(way: Way, *, folder: Path, layers: list[int]) -> list[str]:
    """What `vllm serve` needs besides the model.

    Args:
        way: extraction or hooks.
        folder: of the files, absolute.
        layers: ascending.
    """
    transfer: dict[str, object] = {
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {FOLDER: str(folder), LAYERS: layers},
    }
    if way is Way.HOOKS:
        transfer["kv_connector"] = "HooksConnector"
        transfer["kv_connector_module_path"] = "distillens_plugin.vllm_states.hooks"
        # Cached or captured steps would pass the hooks by.
        special = ["--worker-cls", "distillens_plugin.vllm_states.hooks.HooksWorker"]
        special += ["--enforce-eager", "--no-enable-prefix-caching"]
    else:
        transfer["kv_connector"] = "StatesConnector"
        transfer["kv_connector_module_path"] = "distillens_plugin.vllm_states.connector"
        draft = {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}}
        speculative = {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": draft,
        }
        special = ["--speculative-config", json.dumps(speculative)]
    return ["--kv-transfer-config", json.dumps(transfer), *special]


def overrides(flags: list[str]) -> dict[str, object]:
    """What --hf-overrides changes in the model's configuration; {} without that flag.

    Raises:
        DistillensError: it is not a JSON object.
    """
    text = "{}"
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name.replace("_", "-") == "--hf-overrides":
            text = value if equals else " ".join(flags[place + 1 : place + 2])
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DistillensError(f"--hf-overrides {text[:80]}: expected a JSON object")
    return found


def shown(command: list[str]) -> str:
    """A command as it is typed in a shell."""
    return shlex.join(command)
