"""The fenced code blocks of README, CONTRIBUTING and docs, and who runs each of them.

A block is run by tests/whole/test_code_blocks.py, unless an HTML comment on the line above it says

    <!-- run by tests/integrations/test_trainers_page.py -->     a test that reads it from the page
    <!-- not run: needs eight GPUs -->                           why nobody does

or one at the top of the page, for all its other blocks: `<!-- blocks run by tests/... -->`.

Blocks of language `text` are what a program prints, or a drawing: there is nothing to run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md")))
_FENCE = re.compile(r"^( *)```(.*)$")
_RUN_BY = re.compile(r"^ *<!-- run by (\S+) -->$")
_PAGE = re.compile(r"^<!-- blocks run by (\S+) -->$", re.MULTILINE)
_NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its opening fence.
        run_by: a test or a part of .ci that runs it; `reason` is why nobody does.
    """

    page: Path
    line: int
    language: str
    text: str
    run_by: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        AssertionError: a fence is not closed.
    """
    text = page.read_text(encoding="utf-8")
    lines, for_all = text.split("\n"), _PAGE.search(text)
    found: list[Block] = []
    opened: int | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = number
            continue
        assert not fence[2].strip(), f"{page}:{number + 1}: a fence opens inside another"
        start = _FENCE.match(lines[opened])
        assert start is not None
        body = (each.removeprefix(start[1]) for each in lines[opened + 1 : number])
        above = lines[opened - 1] if opened else ""
        reason = _NOT_RUN.match(above)
        run_by = _RUN_BY.match(above) or (for_all if reason is None else None)
        found.append(
            Block(
                page,
                opened + 1,
                start[2].strip(),
                "\n".join(body) + "\n",
                run_by[1] if run_by else None,
                reason[1] if reason else None,
            )
        )
        opened = None
    assert opened is None, f"{page}: a fence is not closed"
    return found


def commands_of(script: str) -> list[str]:
    """The commands of lines for bash: continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", script)
    lines = (re.sub(r"\s+#.*$", "", f" {line}").strip() for line in joined.split("\n"))
    return [line for line in lines if line]


ALL = [block for page in PAGES for block in blocks_of(page)]
