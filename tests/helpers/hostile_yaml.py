"""Hostile and mutated YAML: a file's text in, as many broken variants of it as wanted out."""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

_HOLE = "@@HOLE@@"
_LAUGHS = (
    "&a [x,x,x,x,x,x,x,x,x]",
    *(f"&{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
)
# Values as they stand in a file, each put in place of some value of the recipe.
VALUES = (
    # Other types.
    *("null", "true", "yes", "0", "-1", "1", "3", "0.5", "''", "text", "[]", "{}", "[null]"),
    *("[[]]", "[1, [2, [3]]]", "{a: 1}", "[a, b]", "2024-01-01", "12:30:45", "0x10", "0o17"),
    *("+1", "1_000", "{1: a}", "{1: a, true: b}", "{null: a}", "{'': a}", "{1.5: a}"),
    # Numbers beyond what anything can hold.
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616"),
    *("1000000000", "1000000000000", "4294967296", "1" * 400, "-" + "9" * 400, "1" * 5000),
    *("1e400", "-1e400", "1e308", "1e-400", ".inf", "-.inf", ".nan", "-0.0", "0x" + "f" * 400),
    # Tags.
    *("!!bool maybe", "!!int x", "!!float x", "!!null x", "!!int '' ", "!!str [a]", "!!seq {a: 1}"),
    *("!!map [a]", "!!binary aGk=", "!!timestamp 2001-01-01", "!!set {a}", "!!omap [a: 1]", "! a"),
    *("!!python/object/apply:os.system ['touch MARKER']", "!!python/name:os.system", "!foo bar"),
    *(
        "!import_call {key: os.system, init: {args: ['touch MARKER']}}",
        "!import_get {key: os.system}",
    ),
    *("!import_get {key: torch.utils.data.RandomSampler}", "!import_get []", "!import_get x"),
    *("!join [a, b]", "!join x", "!join [[a], {b: c}]", "!pathjoin []", "!pathjoin [a, /b]"),
    # Anchors, aliases and merge keys.
    *("&x [*x]", "*nowhere", "&x {<<: *x}", "{<<: 1}", "{<<: [1]}", "{<<: {a: 1}}", "{<<: {}}"),
    *("{? [a] : b}", "{a: 1, a: 2}", "[&y {b: 1}, *y, *y]"),
    # Texts and names.
    *('"\\0"', '"a\\0b"', '"\\ud800"', '"\\x1b[31m"', '"\\u2028"', '"line\\nline"', "' '", "'\t'"),
    *("'.'", "'..'", "'../..'", "'/'", "/dev/null", "/dev/null/x", "'~'", "~/x", "'./nowhere'"),
    *("'😀'", "'" + "x" * 300 + "'", "'" + "x" * 20_000 + "'", "'" + "a/" * 2500 + "'"),
    *("evil/repo", "a/b/c", "'a b'", "'-x'", "'--trust-recipe'", "'a//b'", "'a/..'", "'é/ü'"),
    *("pandas", "file:///etc/passwd", "'http://127.0.0.1:9'", "'http://['", "'{instruction'"),
    *("'{input}'", "'{instruction.__class__}'", "'{instruction:>99999999999}'", "chat", "cuda"),
    *("rougeL", "recipe.yaml", "data.csv", "os.system", "evil_module.Sampler", "[os.system]"),
)


@dataclass
class Case:
    """One hostile input.

    Attributes:
        name: says how to find it again.
        content: of the file.
        sets: texts for --set.
        files: further files beside it, by name.
    """

    name: str
    content: bytes
    sets: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def mutated(text: str, keys: list[str], *, num_cases: int, seed: int) -> Iterator[Case]:
    """Variants of a YAML file, the same for a seed.

    Args:
        keys: dotted paths that the file does not have and might have.
    """
    rng = random.Random(seed)
    data = yaml.safe_load(text)
    paths = list(_paths(data))
    for number in range(num_cases):
        kind = rng.choice(("value", "value", "mild", "mild", "key", "set", "text", "text", "two"))
        content, sets = text.encode(), list[str]()
        if kind == "value":
            content = _with_value(data, rng.choice(paths), rng.choice(VALUES))
        elif kind == "mild":
            leaves = [path for path in paths if not isinstance(_at(data, path), dict | list)]
            for path in rng.sample(leaves, 2):
                content = _with_value(yaml.safe_load(content), path, _near(_at(data, path), rng))
        elif kind == "key":
            content = _with_value(data, tuple(rng.choice(keys).split(".")), rng.choice(VALUES))
        elif kind == "two":
            content = _with_value(data, rng.choice(paths), rng.choice(VALUES))
            content = _broken_text(content, rng)
        elif kind == "set":
            known = [".".join(map(str, path)) for path in paths if path]
            sets = [f"{rng.choice([*known, *keys])}={rng.choice(VALUES)}" for _ in range(2)]
        else:
            content = _broken_text(text.encode(), rng)
            if rng.random() < 0.5:
                content = _broken_text(content, rng)
        yield Case(f"{kind} {number}", content, sets)


def handmade(text: str) -> Iterator[Case]:
    """Files that no mutation is likely to find."""
    good = text.encode()
    yield Case("empty", b"")
    yield Case("only a comment", b"# nothing\n")
    yield Case("two documents", good + b"\n---\na: 1\n")
    yield Case("a list", b"[1, 2]\n")
    yield Case("a number", b"7\n")
    yield Case("a BOM", b"\xef\xbb\xbf" + good)
    yield Case("two BOMs", b"\xef\xbb\xbf" * 2 + good)
    yield Case("UTF-16", text.encode("utf-16"))
    yield Case("UTF-32", text.encode("utf-32"))
    yield Case("Latin-1", good + "# é\n".encode("latin-1"))
    yield Case("a NUL byte", good + b"\0")
    yield Case("nothing but NUL bytes", b"\0" * 5000)
    yield Case("random bytes", random.Random(0).randbytes(5000))
    yield Case("tabs", good.replace(b"  ", b"\t"))
    yield Case("carriage returns", good.replace(b"\n", b"\r"))
    yield Case(
        "a billion laughs", "\n".join(f"k{i}: {line}" for i, line in enumerate(_LAUGHS)).encode()
    )
    yield Case(
        "laughs by merging",
        b"a: &a {x: 1, y: 2}\n"
        + b"".join(
            f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n".encode()
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    )
    yield Case("deep lists", b"a: " + b"[" * 20_000 + b"]" * 20_000)
    yield Case("deep mappings", b"a: " + b"{a: " * 5000 + b"}" * 5000)
    yield Case("deep blocks", b"".join(b" " * i + b"a:\n" for i in range(600)))
    yield Case(
        "deep aliases",
        b"k0: &k0 [1]\n" + b"".join(f"k{i + 1}: &k{i + 1} [*k{i}]\n".encode() for i in range(500)),
    )
    yield Case("10 MB of values", b"a: [" + b"1, " * 3_500_000 + b"1]")
    yield Case("10 MB of comments", good + b"# comment\n" * 1_000_000)
    yield Case("200 KB of values", b"a: [" + b"1," * 100_000 + b"1]")
    yield Case("200 KB of one text", good + b"x: '" + b"y" * 200_000 + b"'")
    yield Case("200 KB of one key", good + b"y" * 200_000 + b": 1")
    yield Case("200 KB of keys", good + b"".join(b"k%d: 1\n" % i for i in range(18_000)))
    yield Case("200 KB of anchors", b"[" + b"".join(b"&a%d 1," % i for i in range(18_000)) + b"]")
    yield Case("question marks", b"? " * 5000)
    yield Case("dashes", b"- " * 5000)
    yield Case("a quote without an end", good + b"x: 'y\n" * 5000)
    yield Case("directives", b"%YAML 9.9\n%TAG ! tag:x,2000:\n---\n" + good)
    for name in (
        "recipe.yaml",
        ".",
        "..",
        "nowhere.yaml",
        "/dev/null",
        "x\\0y",
        "x" * 300,
        "😀",
        "a" * 5000,
    ):
        yield Case(f"base {name[:20]}", f'base: "{name}"\n'.encode() + good)
    yield Case("a list as base", b"base: [[a]]\n" + good)
    yield Case("a number as base", b"base: 1\n" + good)
    yield Case("an empty base", b"base: ''\n" + good)
    yield Case(
        "a base of two",
        b"base: [a.yaml, b.yaml]\n" + good,
        files={"a.yaml": b"base: b.yaml\nseed: 1\n", "b.yaml": b"base: a.yaml\n"},
    )
    diamond = {f"d{i}.yaml": f"base: [d{i + 1}.yaml, d{i + 1}.yaml]\n".encode() for i in range(30)}
    diamond["d30.yaml"] = good
    yield Case("a diamond of bases", b"base: [d0.yaml, d0.yaml]\n", files=diamond)
    chain = {f"c{i}.yaml": f"base: c{i + 1}.yaml\n".encode() for i in range(400)}
    yield Case("a long chain of bases", b"base: c0.yaml\n", files={**chain, "c400.yaml": good})


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    entries = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in entries:
        yield from _paths(value, (*path, key))


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def _near(value: Any, rng: random.Random) -> str:
    """A value of the same type: what a check of types lets through."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int):
        return str(rng.choice((0, -value, value - 1, value + 1, value * 10, value * 10**7, 2**62)))
    if isinstance(value, float):
        return f"{value * rng.choice((-1.0, 0.0, 1e-9, 1e9, 1e300)):.3e}"
    text = list(str(value))
    for _ in range(rng.randrange(1, 4)):
        text.insert(rng.randrange(len(text) + 1), rng.choice("/.-_ ~aZ0é\U0001f600:@#"))
    return "'" + "".join(text) + "'"


def _with_value(data: Any, path: tuple[Any, ...], value: str) -> bytes:
    """The file with this text in place of a value; mappings on the way are made."""
    changed = copy.deepcopy(data)
    node = changed
    for key in path[:-1]:
        if isinstance(node, dict) and not isinstance(node.get(key), dict | list):
            node[key] = {}
        node = node[key]
    node[path[-1]] = _HOLE
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=10**9)
    return text.replace(f"'{_HOLE}'", value).encode("utf-8", "surrogatepass")


def _broken_text(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 80))
    kind = rng.randrange(12)
    if kind == 0:
        return content[:start] + content[end:]
    if kind == 1:
        return content[:start] + rng.randbytes(rng.randrange(1, 4)) + content[start:]
    if kind == 2:
        return content[:start]
    if kind == 3:
        return content[:end] + content[start:end] * rng.choice((1, 3, 100)) + content[end:]
    if kind == 4:
        return (
            content[:start]
            + rng.choice(
                (
                    b"\t",
                    b"\0",
                    b"\xef\xbb\xbf",
                    b"\r",
                    b"\xc2\x85",
                    b"\x1b",
                    b"\n",
                    b":",
                    b"- ",
                    b"? ",
                    b"'",
                    b'"',
                    b"{",
                    b"[",
                    b"&",
                    b"*",
                    b"!",
                    b"|",
                    b"%",
                    b"@",
                    b"`",
                    b"#",
                    b"<<: ",
                )
            )
            + content[start:]
        )
    if kind == 5:
        lines.insert(rng.randrange(len(lines)), lines[line])
    elif kind == 6:
        other = rng.randrange(len(lines))
        lines[line], lines[other] = lines[other], lines[line]
    elif kind == 7:
        lines[line] = b" " * rng.randrange(9) + lines[line].lstrip()
    elif kind == 8:
        del lines[line]
    elif kind == 9:
        lines[line] = lines[line].upper()
    elif kind == 10:
        flipped = content[start] ^ (1 << rng.randrange(8))
        return content[:start] + bytes([flipped]) + content[start + 1 :]
    else:
        lines[line] = bytes(
            rng.choice(b"0123456789-.e") if c in b"0123456789" else c for c in lines[line]
        )
    return b"\n".join(lines)
