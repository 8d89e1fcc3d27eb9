"""What lm-eval writes about a run beside its results: versions, tokenizer, chat template, time."""

import importlib.metadata
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eval_harness.results.format_version import LM_EVAL_VERSION
from eval_harness.results.hashes import text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEYS = (
    "git_hash",
    "transformers_version",
    "lm_eval_version",
    "tokenizer_pad_token",
    "tokenizer_eos_token",
    "tokenizer_bos_token",
    "eot_token_id",
    "max_length",
    "model_source",
    "model_name_sanitized",
    "system_instruction",
    "system_instruction_sha",
    "fewshot_as_multiturn",
    "chat_template",
    "chat_template_sha",
    "total_evaluation_time_seconds",
)


def environment_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a results file that `describe_run` made."""
    return {key: content[key] for key in _KEYS if key in content}


def describe_run(
    *,
    model_source: str,
    model_name_sanitized: str,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    chat_template: str | None,
    seconds: float,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool | None = None,
) -> dict[str, Any]:
    """The keys that lm-eval's results files have beside results, configuration and date.

    Args:
        model_source: the backend.
        model_name_sanitized: name of the model's folder.
        max_length: positions of the model; None if unlimited.
        chat_template: the one that prompts were made with; None without one.
        seconds: how long the evaluation took.
    """
    tokens = {
        f"tokenizer_{kind}_token": [
            getattr(tokenizer, f"{kind}_token"),
            str(getattr(tokenizer, f"{kind}_token_id")),
        ]
        for kind in ("pad", "eos", "bos")
    }
    return {
        "git_hash": _git_hash(),
        "transformers_version": importlib.metadata.version("transformers"),
        "lm_eval_version": LM_EVAL_VERSION,
        **tokens,
        "eot_token_id": tokenizer.eos_token_id,
        "max_length": max_length,
        "model_source": model_source,
        "model_name_sanitized": model_name_sanitized,
        "system_instruction": system_instruction,
        "system_instruction_sha": _sha(system_instruction),
        "fewshot_as_multiturn": fewshot_as_multiturn,
        "chat_template": chat_template,
        "chat_template_sha": _sha(chat_template),
        "total_evaluation_time_seconds": str(seconds),
    }


def _sha(text: str | None) -> str | None:
    return text_hash(text) if text else None


def _git_hash() -> str | None:
    """The commit of the current folder's repository, if it is in one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
