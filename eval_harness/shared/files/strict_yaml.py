"""Reads our YAML files: keeps positions, refuses duplicate keys, and lets nothing in them run.

`yaml_loader` defines what a value is; here nodes are checked before they become values.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from eval_harness.errors import DistillensError
from eval_harness.shared.files.yaml_loader import (
    CORE_RULES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    MERGE,
    PLAIN_TAGS,
    STANDARD,
    RefusedError,
    StrictLoader,
    read_int,
)
from eval_harness.shared.shortened import shortened

KeyPath = tuple[str | int, ...]

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
}


@dataclass(frozen=True)
class Mark:
    """A place in the file; both numbers count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Place:
    """Where a key is (for a list: the entry) and where its value begins."""

    key: Mark
    value: Mark


def read_mapping(
    path: str, *, what: str, keys: str, loader: Any = StrictLoader
) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    """The mapping in a YAML file, and where each of its keys and entries is.

    Args:
        path: errors name it as given.
        what: the kind of file, for errors.
        keys: examples of its keys, for errors.
        loader: a class of `yaml_loader`, which defines the tags that may be used.

    Raises:
        DistillensError: file missing, too large, not UTF-8, empty, not a mapping, bad YAML, a key
            twice in one mapping, a value that no setting can have, or a tag that is not allowed.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DistillensError(
            f"{path}: the {what} cannot be read ({reason}); expected a YAML file"
        ) from None
    _check_size(len(raw), path, what)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise DistillensError(
            f"{path}:{line}:{column}: found byte 0x{raw[error.start]:02x}, expected UTF-8 text; "
            f"save the {what} as UTF-8"
        ) from None
    data, places = parse_yaml(text, path, what=what, loader=loader)
    if data is None:
        raise DistillensError(f"{path}: the {what} is empty; expected keys such as {keys}")
    if not isinstance(data, dict):
        raise DistillensError(
            f"{path}: found a {type(data).__name__}, expected a mapping with keys such as {keys}"
        )
    return data, places


def _check_size(num_bytes: int, name: str, what: str) -> None:
    if num_bytes > MAX_BYTES:
        raise DistillensError(
            f"{name}: larger than {MAX_BYTES // 1024} KiB, too large for a {what}; expected a YAML "
            "file of settings (data belong in a file of their own)"
        )


def parse_yaml(
    text: str, name: str, *, what: str, loader: Any = StrictLoader
) -> tuple[Any, dict[KeyPath, Place]]:
    """One YAML document as Python values, with the place of each key and entry.

    Args:
        name: file name (or `--set ...`) that errors begin with.
        what, loader: as for `read_mapping`.

    Raises:
        DistillensError: as `read_mapping`.
    """
    _check_size(len(text), name, what)
    try:
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None, {}
        walk = _Walk(name, what, loader)
        walk.visit(node, ())
        return reader.construct_document(node), walk.places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = shortened(" ".join((error.problem or error.context or "bad YAML").split()), 200)
        kind = "" if isinstance(error, RefusedError) else "not YAML: "
        raise DistillensError(f"{where}: {kind}{problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        raise DistillensError(
            f"{name}:{line}:{column}: found the control character "
            f"#x{ord(text[error.position]):04x}, which YAML does not allow; delete it"
        ) from None
    except RecursionError:
        raise DistillensError(f"{name}: nested too deeply for a {what}") from None
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        problem = shortened(" ".join(str(error).split()), 200)
        raise DistillensError(f"{name}: not YAML: {problem}") from None


class _Walk:
    """Visits the composed nodes before any of them becomes a value."""

    def __init__(self, name: str, what: str, loader: Any) -> None:
        self.name = name
        self.what = what
        self.loader = loader
        self.places: dict[KeyPath, Place] = {}
        self.num_nodes = 0
        self.open_nodes: set[int] = set()

    def refuse(self, node: yaml.Node, message: str) -> NoReturn:
        mark = node.start_mark
        raise DistillensError(f"{self.name}:{mark.line + 1}:{mark.column + 1}: {message}")

    def visit(self, node: yaml.Node, path: KeyPath) -> None:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            self.refuse(
                node, f"aliases expand the {self.what} to more than {MAX_NODES} values; use fewer"
            )
        if len(path) > MAX_DEPTH:
            self.refuse(
                node, f"aliases nest the {self.what} more than {MAX_DEPTH} levels deep; use fewer"
            )
        if id(node) in self.open_nodes:
            self.refuse(node, "an alias (*) inside its own anchor (&); write the value out")
        self.check_tag(node)
        self.open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self.visit_mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.places[(*path, index)] = Place(_mark(item), _mark(item))
                self.visit(item, (*path, index))
        elif isinstance(node, yaml.ScalarNode):
            self.check_scalar(node)
        self.open_nodes.discard(id(node))

    def visit_mapping(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first_lines: dict[str, int] = {}
        merged = [value for key, value in node.value if key.tag == MERGE]
        # What `<<` brings in comes first, so that the mapping's own keys overwrite its places.
        for value in merged:
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in reversed(parts):
                self.visit(part, path)
        for key, value in node.value:
            if key.tag == MERGE:
                continue
            self.check_key(key)
            line = key.start_mark.line + 1
            if key.value in first_lines:
                self.refuse(
                    key,
                    f"key {shortened(repr(key.value))} appears twice, on lines "
                    f"{first_lines[key.value]} and {line}; keep one of them",
                )
            first_lines[key.value] = line
            self.places[(*path, key.value)] = Place(_mark(key), _mark(value))
            self.visit(value, (*path, key.value))

    def check_key(self, key: yaml.Node) -> None:
        if not isinstance(key, yaml.ScalarNode):
            self.refuse(key, "found a list or mapping as a key, expected a word")
        self.check_tag(key)
        self.check_scalar(key)
        if key.tag not in (f"{STANDARD}str", f"{STANDARD}int"):
            found = shortened(key.value) or "nothing"
            self.refuse(key, f"found {found} as a key, expected a word; put quotes around it")

    def check_scalar(self, node: yaml.ScalarNode) -> None:
        kind = node.tag.removeprefix(STANDARD)
        if kind in _EXPECTED and not CORE_RULES[kind][0].match(node.value):
            self.refuse(
                node,
                f"found {shortened(repr(node.value))} with the tag !!{kind}, expected "
                f"{_EXPECTED[kind]}; delete the tag",
            )
        if kind == "int" and not _fits(node.value):
            self.refuse(
                node,
                f"found {shortened(node.value)}, expected a whole number that fits in 64 bits",
            )
        if kind == "float" and _overflows(node.value):
            self.refuse(node, f"found {shortened(node.value)}, expected a number of at most 1e308")
        for character in node.value:
            if character == "\0" or "\ud800" <= character <= "\udfff":
                what = f"the character #x{ord(character):04x}"
                self.refuse(node, f"found {what}, not allowed in names and texts; delete it")

    def check_tag(self, node: yaml.Node) -> None:
        if self.loader.tag_advice is None or node.tag in (*PLAIN_TAGS, *self.loader.safe_tags):
            return
        shown = shortened(node.tag.replace(STANDARD, "!!"))
        self.refuse(node, f"found the tag {shown}, which may run code; {self.loader.tag_advice}")


def _fits(text: str) -> bool:
    return len(text.lstrip("+-0ox")) <= 20 and -(2**63) <= read_int(text) < 2**63


def _overflows(text: str) -> bool:
    return text[-1:].isdigit() and abs(float(text)) == float("inf")


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
