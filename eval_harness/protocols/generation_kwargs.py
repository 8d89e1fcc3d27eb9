"""A protocol's settings as lm-eval's `generation_kwargs` names them."""

from typing import Any

from eval_harness.protocols.protocol import Protocol
from eval_harness.shared.text.answers import END_MARK


def generation_kwargs(protocol: Protocol) -> dict[str, Any]:
    """What lm-eval gives its models for the same answers: stops, length, sampling."""
    settings: dict[str, Any] = {
        "until": [END_MARK, *protocol.stops],
        "max_gen_toks": protocol.max_new_tokens,
        "do_sample": not protocol.greedy,
        "temperature": protocol.temperature,
    }
    if not protocol.greedy:
        settings |= {"top_p": protocol.top_p, "top_k": protocol.top_k}
    if protocol.no_repeat_ngram_size:
        settings["no_repeat_ngram_size"] = protocol.no_repeat_ngram_size
    return settings
