"""How PyYAML reads our files: YAML 1.2's core rules, no tags that run code, and limits.

PyYAML reads YAML 1.1, in which `1e-4` and `.5e-3` are text, `no` is false and `010` is 8. Our files
are read by the core rules of YAML 1.2 instead: numbers are what they look like, only true and false
are booleans (on, off, yes and no stay text, so `mixed_precision: no` means what it says).
"""

import re
from typing import Any, ClassVar

import yaml

# Files of settings are small; larger ones would keep the reader busy for minutes.
MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 50
STANDARD = "tag:yaml.org,2002:"
MERGE = f"{STANDARD}merge"
PLAIN_TAGS = {STANDARD + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_DIGITS = list("-+0123456789.")
# What a plain value of each type looks like, and the characters that it can start with.
CORE_RULES: dict[str, tuple[re.Pattern[str], list[str]]] = {
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), _DIGITS),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        _DIGITS,
    ),
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "merge": (re.compile(r"^(?:<<)$"), ["<"]),
}


class RefusedError(yaml.MarkedYAMLError):
    """A document that is YAML, but that we do not accept."""


class LimitedComposer:
    """Stops reading a document as soon as it proves too large or too deep."""

    num_nodes = 0
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.num_nodes += 1
        self.depth += 1
        for found, limit, what in (
            (self.num_nodes, MAX_NODES, "values are more"),
            (self.depth, MAX_DEPTH, "levels are deeper"),
        ):
            if found > limit:
                mark = self.peek_event().start_mark  # type: ignore[attr-defined]
                problem = (
                    f"{found} {what} than any file of settings needs; expected at most {limit}"
                )
                raise RefusedError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self.depth -= 1
        return node


class StrictLoader(LimitedComposer, yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core rules.

    Attributes:
        safe_tags: tags that a file may use besides YAML's own.
        tag_advice: what to do about other tags; None allows them all.
    """

    safe_tags: ClassVar[tuple[str, ...]] = ()
    tag_advice: ClassVar[str | None] = "delete it"


def use_core_rules(loader: Any) -> None:
    """Gives a loader class YAML 1.2's rules for null, booleans, integers and floats."""
    loader.yaml_implicit_resolvers = {}
    for name, (pattern, first) in CORE_RULES.items():
        loader.add_implicit_resolver(STANDARD + name, pattern, first)
    loader.add_constructor(f"{STANDARD}int", _construct_int)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    return read_int(loader.construct_scalar(node))


def read_int(text: str) -> int:
    """An integer in the notation of the core rules."""
    base = {"0o": 8, "0x": 16}.get(text[:2].lower(), 10)
    return int(text, base)


use_core_rules(StrictLoader)
