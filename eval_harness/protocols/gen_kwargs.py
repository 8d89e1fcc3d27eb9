"""--gen_kwargs: the settings of a protocol under lm-eval's and others' names."""

import contextlib
import json
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.near import near_names
from eval_harness.shared.shortened import shortened
from eval_harness.shared.text.stop_texts import read_stop_texts

# lm-eval's names first, then those of transformers and vLLM.
_FIELDS = {
    "max_gen_toks": "max_new_tokens",
    "max_new_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "until": "until",
    "do_sample": "do_sample",
}
# Values that do not affect the choice of the token.
_OFF = {"top_p": 1, "top_k": 0}


def changes_of(gen_kwargs: dict[str, Any], *, protocol: str, greedy: bool) -> dict[str, Any]:
    """The fields of `Protocol` that change, with their new values.

    Args:
        gen_kwargs: parsed.
        protocol: the name of the protocol that they change, for errors.
        greedy: whether that protocol is greedy.
    Raises:
        DistillensError: an unknown key (with near names), a field set twice, or settings that
            contradict each other or the protocol.
    """
    changes: dict[str, Any] = {}
    for key, value in gen_kwargs.items():
        if key not in _FIELDS:
            raise DistillensError(
                f"--gen_kwargs {key}: not known, expected {', '.join(_FIELDS)}"
                f"{near_names(key, _FIELDS)}"
            )
        field = _FIELDS[key]
        if field in changes:
            raise DistillensError(f"--gen_kwargs {key}: {field} is set twice")
        changes[field] = _stops(value) if field == "until" else value
    _check_sampling(changes, protocol, greedy)
    return changes


def shown(value: object) -> str:
    """A wrong value for a message, shortened."""
    if isinstance(value, int) and abs(value) > 10**40:
        return "an integer of over 40 digits"
    return shortened(repr(value))


def _stops(value: object) -> tuple[str, ...]:
    """One text or a list of texts, on a command line in JSON form."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError):  # a stop may begin with a bracket
            value = json.loads(value)
    return read_stop_texts(value, "--gen_kwargs until")


def _check_sampling(changes: dict[str, Any], protocol: str, greedy: bool) -> None:
    """Turns `do_sample` into a temperature; refuses settings that would be ignored."""
    given = changes.get("temperature")
    if isinstance(given, int | float) and not isinstance(given, bool):
        if greedy and given != 0:
            raise DistillensError(
                f"--protocol {protocol} --gen_kwargs temperature={shown(given)}: greedy decoding "
                "has no temperature; choose --protocol default"
            )
        greedy = given == 0
    if "do_sample" in changes:
        do_sample = changes.pop("do_sample")
        if not isinstance(do_sample, bool):
            raise DistillensError(
                f"--gen_kwargs do_sample={shown(do_sample)}: expected true or false"
            )
        if do_sample and greedy:
            under = "temperature=0" if given is not None else f"--protocol {protocol}"
            raise DistillensError(
                f"--gen_kwargs do_sample=true with {under}: greedy decoding does not sample; give "
                "only one of the two"
            )
        if not do_sample and given not in (None, 0):
            raise DistillensError(
                f"--gen_kwargs do_sample=false,temperature={shown(given)}: greedy decoding has no "
                "temperature; give only one of the two"
            )
        if not do_sample:
            changes["temperature"], greedy = 0.0, True
    for field, off in _OFF.items():
        if greedy and changes.get(field, off) != off:
            raise DistillensError(
                f"--gen_kwargs {field}={shown(changes[field])}: greedy decoding takes the most "
                f"likely token, so {field} would change nothing; drop it, or choose a protocol or "
                "temperature that samples"
            )
