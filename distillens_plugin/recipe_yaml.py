"""Reading a recipe's YAML: positions kept, duplicate keys refused, and nothing in it can run.

PyYAML reads YAML 1.1, in which `1e-4` and `.5e-3` are text, `no` is false and `010` is 8. Recipes
are read by the core rules of YAML 1.2 instead: numbers are what they look like, only true and false
are booleans (on, off, yes and no stay text, so `mixed_precision: no` means what it says).
"""

import os
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from eval_harness.errors import DistillensError
from eval_harness.trust import RECIPE_FLAG, advice

KeyPath = tuple[str | int, ...]

# A recipe is small; an alias bomb is not.
_MAX_NODES = 50_000
_STANDARD = "tag:yaml.org,2002:"
_MERGE = f"{_STANDARD}merge"
_PLAIN_TAGS = {_STANDARD + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_SAFE_TAGS = ("!join", "!pathjoin", "!import_get")
_SAMPLERS = re.compile(r"torch\.utils\.data\.(?:sampler\.|distributed\.)?[A-Za-z]*Sampler")


@dataclass(frozen=True)
class ImportedName:
    """`!import_get {key: torch.utils.data.SequentialSampler}`: a name; `full_form` imports it."""

    key: str


@dataclass(frozen=True)
class Mark:
    """A place in the file, both numbers from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Place:
    """Where a key stands (for a list's entry: the entry) and where its value begins."""

    key: Mark
    value: Mark


def read_yaml_file(
    path: str, *, trust: bool = False
) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    """The mapping in a recipe file, and where each of its keys and entries stands.

    Args:
        path: named in errors as it is given.
        trust: torchdistill's other YAML tags work too, and can run any code.

    Raises:
        DistillensError: file missing, not UTF-8, empty, not a mapping, bad YAML, a key twice in one
            mapping, or a tag that needs trust.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DistillensError(
            f"{path}: the recipe cannot be read ({reason}); expected a YAML file"
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise DistillensError(
            f"{path}:{line}:{column}: found byte 0x{raw[error.start]:02x}, expected UTF-8 text; "
            "save the recipe as UTF-8"
        ) from None
    data, places = parse_yaml(text, path, trust=trust)
    if data is None:
        raise DistillensError(
            f"{path}: the recipe is empty; expected keys such as models: and train:"
        )
    if not isinstance(data, dict):
        raise DistillensError(
            f"{path}: found a {type(data).__name__}, expected a mapping with keys such as models:"
        )
    return data, places


def parse_yaml(text: str, name: str, *, trust: bool = False) -> tuple[Any, dict[KeyPath, Place]]:
    """One YAML document as Python values, with the place of each key and entry.

    Args:
        name: file name (or `--set ...`) that errors begin with.

    Raises:
        DistillensError: as `read_yaml_file`.
    """
    make_loader = _trusted_loader() if trust else RecipeLoader
    try:
        loader = make_loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        walk = _Walk(name, trust)
        walk.visit(node, ())
        return loader.construct_document(node), walk.places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = " ".join((error.problem or error.context or "bad YAML").split())
        raise DistillensError(f"{where}: not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        raise DistillensError(
            f"{name}:{line}:{column}: found the control character "
            f"#x{ord(text[error.position]):04x}, "
            "which YAML does not allow; delete it"
        ) from None
    except RecursionError:
        raise DistillensError(f"{name}: nested too deeply for a recipe") from None
    except (TypeError, ValueError) as error:
        raise DistillensError(f"{name}: not YAML: {error}") from None


class _Walk:
    """Goes over the composed nodes, before any of them becomes a value."""

    def __init__(self, name: str, trust: bool) -> None:
        self.name = name
        self.trust = trust
        self.places: dict[KeyPath, Place] = {}
        self.num_nodes = 0
        self.open_nodes: set[int] = set()

    def refuse(self, node: yaml.Node, message: str) -> NoReturn:
        mark = node.start_mark
        raise DistillensError(f"{self.name}:{mark.line + 1}:{mark.column + 1}: {message}")

    def visit(self, node: yaml.Node, path: KeyPath) -> None:
        self.num_nodes += 1
        if self.num_nodes > _MAX_NODES:
            self.refuse(node, f"aliases blow the recipe up to more than {_MAX_NODES} values")
        if id(node) in self.open_nodes:
            self.refuse(node, "an alias (*) inside its own anchor (&); write the value out")
        if not self.trust:
            self.check_tag(node)
        self.open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self.visit_mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.places[(*path, index)] = Place(_mark(item), _mark(item))
                self.visit(item, (*path, index))
        self.open_nodes.discard(id(node))

    def visit_mapping(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first_lines: dict[str, int] = {}
        merged = [value for key, value in node.value if key.tag == _MERGE]
        # What `<<` brings in first, so that the mapping's own keys take the places over.
        for value in merged:
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in reversed(parts):
                self.visit(part, path)
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, "found a list or mapping as a key, expected a word")
            line = key.start_mark.line + 1
            if key.value in first_lines:
                self.refuse(
                    key,
                    f"key {key.value!r} is there twice, in line {first_lines[key.value]} and in "
                    f"line {line}; keep one of them",
                )
            first_lines[key.value] = line
            self.check_tag(key)
            self.places[(*path, key.value)] = Place(_mark(key), _mark(value))
            self.visit(value, (*path, key.value))

    def check_tag(self, node: yaml.Node) -> None:
        if node.tag in _PLAIN_TAGS or node.tag in _SAFE_TAGS:
            return
        shown = node.tag.replace(_STANDARD, "!!")
        self.refuse(
            node,
            f"found the tag {shown}, which may run code; expected only "
            f"{', '.join(_SAFE_TAGS[:2])} and "
            f"{_SAFE_TAGS[2]} of a torch.utils.data sampler; {advice(RECIPE_FLAG)}",
        )


def is_sampler(name: Any) -> bool:
    """Whether a text names one of torch's own samplers."""
    return isinstance(name, str) and _SAMPLERS.fullmatch(name) is not None


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core rules and three tags that build text or names."""


def _use_core_rules(loader: Any) -> None:
    """Gives a loader class YAML 1.2's notion of null, booleans, integers and floats."""
    loader.yaml_implicit_resolvers = {}
    digits = list("-+0123456789.")
    for name, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", digits),
        (
            "float",
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
            digits,
        ),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("merge", r"<<", ["<"]),
    ):
        loader.add_implicit_resolver(_STANDARD + name, re.compile(rf"^(?:{pattern})$"), first)
    loader.add_constructor(f"{_STANDARD}int", _construct_int)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
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
    if not _SAMPLERS.fullmatch(key) or not set(entry) <= {"key", "package"}:
        raise yaml.constructor.ConstructorError(
            problem=f"!import_get found {key or node.value!r}, expected a sampler of "
            f"torch.utils.data; {advice(RECIPE_FLAG)}",
            problem_mark=node.start_mark,
        )
    return ImportedName(key)


_use_core_rules(RecipeLoader)
RecipeLoader.add_constructor("!join", _construct_join)
RecipeLoader.add_constructor("!pathjoin", _construct_pathjoin)
RecipeLoader.add_constructor("!import_get", _construct_import_get)


def _trusted_loader() -> type[yaml.FullLoader]:
    """A loader with torchdistill's tags, on a class of its own: yaml.FullLoader keeps none."""
    from torchdistill.common import yaml_util

    class TrustedLoader(yaml.FullLoader):
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
