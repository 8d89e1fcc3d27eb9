"""How PyYAML reads a recipe: YAML 1.2's core rules, a few tags that build text, and limits.

PyYAML reads YAML 1.1, in which `1e-4` and `.5e-3` are text, `no` is false and `010` is 8. Recipes
are read by the core rules of YAML 1.2 instead: numbers are what they look like, only true and false
are booleans (on, off, yes and no stay text, so `mixed_precision: no` means what it says).
"""

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from eval_harness.trust import RECIPE_FLAG, advice

# A recipe is small; what is not would keep the reader busy for minutes.
MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 50
STANDARD = "tag:yaml.org,2002:"
MERGE = f"{STANDARD}merge"
PLAIN_TAGS = {STANDARD + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
SAFE_TAGS = ("!join", "!pathjoin", "!import_get")
_DIGITS = list("-+0123456789.")
# What a plain value looks like, by its type, and the characters that it can start with.
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
_SAMPLERS = re.compile(r"torch\.utils\.data\.(?:sampler\.|distributed\.)?[A-Za-z]*Sampler")


@dataclass(frozen=True)
class ImportedName:
    """`!import_get {key: torch.utils.data.SequentialSampler}`: a name; `full_form` imports it."""

    key: str


def is_sampler(name: Any) -> bool:
    """Whether a text names one of torch's own samplers."""
    return isinstance(name, str) and _SAMPLERS.fullmatch(name) is not None


class RefusedError(yaml.MarkedYAMLError):
    """A document that is YAML and that we do not take."""


class LimitedComposer:
    """Ends the reading of a document that is too large or too deep, while it is read."""

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
                problem = f"{found} {what} than any recipe needs; expected at most {limit}"
                raise RefusedError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self.depth -= 1
        return node


class RecipeLoader(LimitedComposer, yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core rules and three tags that build text or names."""


def _use_core_rules(loader: Any) -> None:
    """Gives a loader class YAML 1.2's notion of null, booleans, integers and floats."""
    loader.yaml_implicit_resolvers = {}
    for name, (pattern, first) in CORE_RULES.items():
        loader.add_implicit_resolver(STANDARD + name, pattern, first)
    loader.add_constructor(f"{STANDARD}int", _construct_int)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    return read_int(loader.construct_scalar(node))


def read_int(text: str) -> int:
    """An integer as the core rules write it."""
    base = {"0o": 8, "0x": 16}.get(text[:2].lower(), 10)
    return int(text, base)


def _construct_join(loader: Any, node: yaml.SequenceNode) -> str:
    return "".join(str(part) for part in loader.construct_sequence(node, deep=True))


def _construct_pathjoin(loader: Any, node: yaml.SequenceNode) -> str:
    parts = [str(part) for part in loader.construct_sequence(node, deep=True)]
    return os.path.expanduser(os.path.join(*parts)) if parts else ""


def _construct_import_get(loader: Any, node: yaml.Node) -> ImportedName:
    entry = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    key = ".".join(str(entry[part]) for part in ("package", "key") if entry.get(part))
    if not is_sampler(key) or not set(entry) <= {"key", "package"}:
        raise RefusedError(
            problem=f"!import_get found {key or 'no key'}, expected a sampler of torch.utils.data; "
            f"{advice(RECIPE_FLAG)}",
            problem_mark=node.start_mark,
        )
    return ImportedName(key)


_use_core_rules(RecipeLoader)
RecipeLoader.add_constructor("!join", _construct_join)
RecipeLoader.add_constructor("!pathjoin", _construct_pathjoin)
RecipeLoader.add_constructor("!import_get", _construct_import_get)


def trusted_loader() -> type[yaml.FullLoader]:
    """A loader with torchdistill's tags, on a class of its own: yaml.FullLoader keeps none."""
    from torchdistill.common import yaml_util

    class TrustedLoader(LimitedComposer, yaml.FullLoader):
        pass

    _use_core_rules(TrustedLoader)
    for name in (
        "join",
        "pathjoin",
        "expanduser",
        "abspath",
        "import_get",
        "import_call",
        "import_call_method",
        "call_method",
        "getattr",
        "setattr",
        "access_by_index_or_key",
    ):
        TrustedLoader.add_constructor(f"!{name}", getattr(yaml_util, f"yaml_{name}"))
    return TrustedLoader
