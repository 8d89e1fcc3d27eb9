"""Broken variants of a JSON or JSON Lines file, from a fixed seed: as many as wanted."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

# JSON texts, each put in place of some value of the file.
VALUES = (
    *("null", "true", "false", "0", "-1", "1", "3", "0.5", "-0.0", "2", "1e10", "1e-400"),
    *('""', '"x"', '"1"', '"0.5"', '"NaN"', '"N/A"', '"null"', '"[]"', '"../../x"', '"a/b"'),
    *("[]", "{}", "[null]", "[[]]", "[[], []]", '["a"]', '["a", "b"]', "[1, 2]", "[0.5, 0.5]"),
    *('[["a"], ["b"]]', '[{"a": 1}]', '{"a": 1}', '{"0": [1]}', '{"": null}', '{"a": {"b": []}}'),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e308", "-1e308"),
    *("9" * 299, "9" * 400, "-" + "9" * 5000, "1e999", "-1e999", "[1e999]", '{"a": [-1e999]}'),
    *("NaN", "Infinity", "-Infinity", "[NaN]", '{"a": NaN}', "nul", "tru", "'x'", "01", "+1", "1."),
    *('"\\u0000"', '"\\ud800"', '"\\u2028"', '"\\u001b[31m"', '"\\n\\n"', '"' + "x" * 5000 + '"'),
    *('"<script>"', '"$\\\\frac{$"', '"\u202e"', '"😀"', '"%s {0} {x}"', '"\\u0085"', '" "'),
    *("[" * 60 + "]" * 60, "[" * 150 + "]" * 150, "[" * 100_000, '{"a":' * 150 + "1" + "}" * 150),
    "[" + ", ".join(["0.5"] * 1000) + "]",
)
_HOLE = "@@HOLE@@"
_KEYS = ("", "id", "x" * 3000, "a.b", "\u0000", "\ud800", "0", "rougeL_ci_low,none", "__class__")


def mutated(lines: list[bytes], num_cases: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of broken variants.

    Args:
        lines: of the file, each a JSON object, without line feeds; a JSON file is one line.
    """
    generator = random.Random(seed)
    whole = b"\n".join(lines) + b"\n"
    for number in range(num_cases):
        name, change = generator.choice(_CHANGES)
        yield f"{number}: {name}", change(lines, whole, generator)


def _value(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    """One value somewhere in the file is another one."""

    def change(parent: Any, key: Any) -> str:
        parent[key] = _HOLE
        return generator.choice(VALUES)

    return _edited(lines, generator, change)


def _deleted(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    def change(parent: Any, key: Any) -> str:
        del parent[key]
        return ""

    return _edited(lines, generator, change)


def _renamed(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    def change(parent: Any, key: Any) -> str:
        if isinstance(parent, dict):
            parent[generator.choice(_KEYS)] = parent.pop(key)
        else:
            parent.insert(0, parent[key])
        return ""

    return _edited(lines, generator, change)


def _swapped_types(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    """Lists for objects, texts for numbers and the other way round."""

    def change(parent: Any, key: Any) -> str:
        old = parent[key]
        if isinstance(old, dict):
            parent[key] = [*old.values()]
        elif isinstance(old, list):
            parent[key] = {str(place): value for place, value in enumerate(old)}
        elif isinstance(old, str):
            parent[key] = len(old)
        else:
            parent[key] = str(old)
        return ""

    return _edited(lines, generator, change)


def _edited(
    lines: list[bytes], generator: random.Random, change: Callable[[Any, Any], str]
) -> bytes:
    chosen = generator.randrange(len(lines))
    row = copy.deepcopy(json.loads(lines[chosen]))
    places = list(_places(row))
    value = change(*generator.choice(places)) if places else ""
    text = json.dumps(row).replace(f'"{_HOLE}"', value).encode("utf-8")
    return b"\n".join([*lines[:chosen], text, *lines[chosen + 1 :]]) + b"\n"


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(entries):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _cut(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    return whole[: generator.randrange(len(whole))]


def _flipped(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(generator.choice([1, 1, 3, 20])):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return bytes(content)


def _inserted(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(whole))
    junk = generator.choice(
        [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"{", b"]", b",", b'"', b"\\", b"\r", b"//x"]
    )
    return whole[:place] + junk + whole[place:]


def _doubled(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    line = generator.choice(lines)
    return b"\n".join([*lines, line]) + b"\n"


def _dropped(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    chosen = generator.randrange(len(lines))
    return b"\n".join([*lines[:chosen], *lines[chosen + 1 :], b""])


def _replaced(lines: list[bytes], whole: bytes, generator: random.Random) -> bytes:
    """Files of another kind altogether."""
    others = [b"", b"\n\n", b"\x00" * 100, bytes(range(256)), b"\x89PNG\r\n\x1a\n", b"a,b\n1,2\n"]
    others += [value.encode("utf-8", "surrogatepass") for value in VALUES]
    others += [whole.decode().encode("utf-16"), whole * 2, b"[" + whole.strip() + b"]"]
    return generator.choice(others)


_CHANGES = (
    *[("another value", _value)] * 6,
    *[("other types", _swapped_types)] * 2,
    ("a key deleted", _deleted),
    ("a key renamed", _renamed),
    ("cut", _cut),
    ("bytes flipped", _flipped),
    ("bytes put in", _inserted),
    ("a row doubled", _doubled),
    ("a row dropped", _dropped),
    ("another file", _replaced),
)
