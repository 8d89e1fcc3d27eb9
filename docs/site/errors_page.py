"""docs/errors.md, made from the code: `python docs/site/errors_page.py`."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from common_messages import SECTIONS  # noqa: E402 (a file beside this one)

DOCUMENT = REPO / "docs" / "errors.md"
_BASES = ("Exception", "BaseException", "Error", "Failure")
_INTRO = """\
# Errors

What does this message mean, and what do I do?

Made from the code by `python docs/site/errors_page.py`; do not edit by hand.

A mistake in what you give is reported in one line, before anything expensive starts: where it is,
what was found, what was expected, what to do. `--debug` adds the traceback. From Python the same
line is the text of a `DistillensError`.

## Exit codes

All commands of both packages have the same ones:

| code | meaning | what to do |
| --- | --- | --- |
| 0 | done | |
| 1 | something failed while running, or an error that nobody expected | read the line, `--resume` |
| 2 | bad input: nothing was started | correct what the line names |
| 128 + n | ended by signal n: 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM | `--resume` |
| 141 | nobody reads the output any more, such as `head -1` | |
"""
_CLASSES = """\

## Every error class

To catch from your own code, import `DistillensError` or `RunFailure` from `eval_harness`. The
others stay within the packages: what catches them turns them into one of these two, or ends the
program by the signal.

| class | is a | exit code | meaning |
| --- | --- | --- | --- |
"""
_MESSAGES = """\

## Messages met most

In angle brackets is what differs. What is in front of a message says where: a file and line, a
recipe's key, a flag.
"""


@dataclass(frozen=True)
class ErrorClass:
    """A class that is raised: its name, module, bases, and the first lines of its docstring."""

    name: str
    module: str
    bases: tuple[str, ...]
    meaning: str


def errors() -> str:
    """The whole document."""
    rows = [
        f"| `{each.name}` ({each.module}) | {', '.join(f'`{base}`' for base in each.bases)} "
        f"| {exit_code(each)} | {each.meaning} |\n"
        for each in error_classes()
    ]
    parts = [_INTRO, _CLASSES, *rows, _MESSAGES]
    for title, messages in SECTIONS.items():
        parts.append(f"\n### {title}\n")
        for message in messages:
            parts.append(f"\n> `{message.text.replace('`', '')}`\n\n")
            parts.append(f"{message.meaning} *Mend:* {message.mend}\n")
    return "".join(parts)


def error_classes() -> list[ErrorClass]:
    """Every class of an error in both packages, those for users first."""
    found = [each for package in ("eval_harness", "distillens_plugin") for each in _within(package)]
    return sorted(found, key=lambda each: each.module != "eval_harness.errors")


def _within(package: str) -> Iterator[ErrorClass]:
    for path in sorted((REPO / package).rglob("*.py")):
        module = ".".join(path.relative_to(REPO).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = tuple(map(ast.unparse, node.bases))
                if any(base.endswith(_BASES) for base in bases):
                    meaning = (ast.get_docstring(node) or "").partition("\n\n")[0]
                    yield ErrorClass(node.name, module, bases, " ".join(meaning.split()))


def exit_code(each: ErrorClass) -> str:
    """The code that a command ends with; empty for classes that never reach the end of one."""
    codes = {"DistillensError": "2", "RunFailure": "1", "Terminated": "128 + n"}
    return next((codes[name] for name in (each.name, *each.bases) if name in codes), "")


if __name__ == "__main__":
    DOCUMENT.write_text(errors(), encoding="utf-8")
