"""The digests that lm-eval gives documents, prompts, targets and tasks."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def text_hash(text: str) -> str:
    """SHA-256 of a text, as 64 hexadecimal digits."""
    # lm-eval cannot write lone surrogates at all, so their form is free.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sample_hashes(
    doc: Mapping[str, Any], arguments: Mapping[str, Any], target: str
) -> dict[str, str]:
    """`doc_hash`, `prompt_hash` and `target_hash` of a row; without a request no `prompt_hash`.

    Args:
        doc: the row.
        arguments: the request, whose "gen_args_0" holds the prompt as "arg_0".
        target: the first reference.
    """
    hashes = {"doc_hash": text_hash(json.dumps(doc, indent=2, ensure_ascii=False))}
    request = arguments.get("gen_args_0")
    if isinstance(request, Mapping) and isinstance(request.get("arg_0"), str):
        hashes["prompt_hash"] = text_hash(request["arg_0"])
    return {**hashes, "target_hash": text_hash(target)}


def task_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """One digest over the rows' three, in order."""
    keys = ("doc_hash", "prompt_hash", "target_hash")
    return text_hash("".join(row.get(key, "") for row in rows for key in keys))
