"""Named sets of evaluation settings, and the --gen_kwargs that change them."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.protocols.gen_kwargs import changes_of, shown
from eval_harness.shared.near import near_names
from eval_harness.shared.text.prompt_starts import prompt_starts
from eval_harness.shared.text.template_table import template_identity

# The largest number that every backend accepts.
_MOST = 2**31 - 1
# What stands before a question.
CONTEXT_SETTINGS = ("system_instruction", "num_fewshot", "fewshot_as_multiturn")


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is run.

    Attributes:
        template: prompt template; see `templates`.
        add_bos_token: what prompts begin with: "auto", as the tokenizer itself begins a text; True,
            its first token; False, only what the template contains.
        truncation: what happens to prompts over `max_prompt_tokens`: "template" cuts the
            instruction or input and keeps the template whole; "reference" keeps the first tokens,
            so that a long prompt loses its "### Response:", as MiniLLM's code does.
        max_prompt_tokens, max_new_tokens: limits in tokens.
        temperature: 0 is greedy.
        top_p: 1 is off. top_k: 0 is off.
        no_repeat_ngram_size: no sequence of this many tokens occurs twice in prompt and answer; 0
            is off.
        seeds: one answer for each.
        until: an answer ends before the first of these texts; None: of the benchmark's, or else
            before another prompt of the template (see `prompt_starts`).
        newline: the mark for a newline in rows and answers; None: the benchmark's, if it has one.
        system_instruction: a system message before each question, in `chat`; None: none.
        num_fewshot: solved examples before each question.
        fewshot_as_multiturn: the examples are turns of the conversation.
        dtype: of the weights if --model_args has none; None: the checkpoint's own.
    """

    template: str = "alpaca"
    add_bos_token: bool | str = "auto"
    truncation: str = "template"
    max_prompt_tokens: int = 256
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    no_repeat_ngram_size: int = 0
    seeds: tuple[int, ...] = (10, 20, 30, 40, 50)
    until: tuple[str, ...] | None = None
    newline: str | None = None
    system_instruction: str | None = None
    num_fewshot: int = 0
    fewshot_as_multiturn: bool = False
    dtype: str | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        return prompt_starts(self.template) if self.until is None else self.until

    def settings(self) -> dict[str, Any]:
        """What results must share to be compared; the weights' type belongs to the model."""
        settings = asdict(self)
        del settings["dtype"]
        settings["seeds"] = list(self.seeds)
        settings["until"] = list(self.stops)
        settings["template"] = template_identity(self.template)
        # Only where they are set, so that other runs keep the fingerprints of earlier versions.
        for name in CONTEXT_SETTINGS:
            if settings[name] == getattr(type(self), name):
                del settings[name]
        return settings


PROTOCOLS: dict[str, Protocol] = {
    "default": Protocol(),
    # MiniLLM, DistiLLM and DistillLens as their code runs, including the truncation that can drop
    # the template's end, the n-gram rule that their generation config turns on, and answers that
    # run on. They read <n> as a newline in any data.
    "minillm": Protocol(
        add_bos_token=False,
        truncation="reference",
        no_repeat_ngram_size=6,
        until=(),
        newline="<n>",
        dtype="float16",
    ),
    "greedy": Protocol(temperature=0.0, seeds=(0,)),
}
TRUNCATIONS = ("template", "reference")


def make_protocol(
    name: str,
    *,
    gen_kwargs: dict[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    **settings: Any,
) -> Protocol:
    """A named protocol with the user's changes.

    Args:
        name: of `PROTOCOLS`.
        gen_kwargs: parsed --gen_kwargs.
        seeds: replace the protocol's.
        settings: other fields of `Protocol`; None leaves the protocol's value.
    Raises:
        DistillensError: an unknown name or key (with near names), a value out of range, settings
            that contradict each other, or several seeds for greedy decoding, which would all give
            the same answers.
    """
    if name not in PROTOCOLS:
        raise DistillensError(
            f"--protocol {name}: not known, expected {', '.join(PROTOCOLS)}"
            f"{near_names(name, PROTOCOLS)}"
        )
    changes = {key: value for key, value in settings.items() if value is not None}
    changes.update(changes_of(gen_kwargs or {}, protocol=name, greedy=PROTOCOLS[name].greedy))
    protocol = replace(PROTOCOLS[name], **changes)
    if seeds is not None:
        protocol = replace(protocol, seeds=tuple(seeds))
    elif protocol.greedy:
        protocol = replace(protocol, seeds=(0,))
    _check(protocol)
    return protocol


def _check(protocol: Protocol) -> None:
    for field, least in [
        ("max_prompt_tokens", 1),
        ("max_new_tokens", 1),
        ("top_k", 0),
        ("no_repeat_ngram_size", 0),
        ("num_fewshot", 0),
    ]:
        value = getattr(protocol, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DistillensError(
                f"{field} = {shown(value)}, expected an integer of at least {least}"
            )
        if value > _MOST:
            raise DistillensError(f"{field} = {shown(value)}, expected at most {_MOST}")
    for field, low, high in [("temperature", 0.0, 100.0), ("top_p", 0.0, 1.0)]:
        value = getattr(protocol, field)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise DistillensError(f"{field} = {shown(value)}, expected a number")
        if not low <= value <= high:
            raise DistillensError(f"{field} = {shown(value)}, expected {low:g} to {high:g}")
    if protocol.top_p == 0:
        raise DistillensError("top_p = 0 leaves no token, expected a number above 0")
    if 0 < protocol.temperature < 0.01:
        raise DistillensError(
            f"temperature = {protocol.temperature}, expected 0 (greedy) or at least 0.01"
        )
    if protocol.truncation not in TRUNCATIONS:
        raise DistillensError(
            f"truncation = {protocol.truncation!r}, expected {' or '.join(TRUNCATIONS)}"
        )
    if not protocol.seeds:
        raise DistillensError("--seed is empty, expected at least one integer")
    repeated = [seed for seed in protocol.seeds if protocol.seeds.count(seed) > 1]
    if repeated:
        raise DistillensError(f"--seed: {repeated[0]} is named twice; name each seed once")
    if protocol.greedy and len(protocol.seeds) > 1:
        raise DistillensError(
            f"--seed {','.join(map(str, protocol.seeds))}: greedy decoding gives the same answers "
            "for every seed; name one seed, or set a temperature"
        )


def request_seed(seed: int, task: str, row_id: str) -> int:
    """The seed of one request, in [0, 2**63): the only source of randomness in its answer.

    Seeds by row, unlike the reference's seed + rank, give the same answers for any order, batch,
    subset of rows and number of GPUs.
    """
    text = f"{seed}\0{task}\0{row_id}".encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
