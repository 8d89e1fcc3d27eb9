"""A Jupyter notebook as a page of the site: its text, its code and what that put out."""

import json
import re
from pathlib import Path
from typing import TypedDict


class Output(TypedDict, total=False):
    """What a cell put out: a stream's `text`, or `data` by kind."""

    output_type: str
    text: str | list[str]
    data: dict[str, str | list[str]]


def notebook_page(path: Path) -> str:
    """The Markdown of a notebook's page. Pictures become data URIs, output stays plain text.

    HTML and scripts in outputs are left out: a page of the site shows what the notebook drew, and
    runs nothing of it.
    """
    cells = json.loads(path.read_text("utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(fenced(source, "python"))
            parts += [shown for output in cell["outputs"] if (shown := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: Output) -> str | None:
    if output["output_type"] == "stream":
        return fenced(_joined(output["text"]), "text")
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(_joined(data["image/png"]).split())
        return f"![{_alt(data)}](data:image/png;base64,{picture})"
    if "text/markdown" in data:
        return _joined(data["text/markdown"])
    if "text/plain" in data:
        return fenced(_joined(data["text/plain"]), "text")
    return None


def _alt(data: dict[str, str | list[str]]) -> str:
    """The text that stands for a picture: its text form, unless that only names a Python object."""
    text = re.sub(r"[\[\]\n]", " ", _joined(data.get("text/plain", ""))).strip()
    return "Figure of the cell above" if not text or text.startswith("<") else text


def fenced(text: str, kind: str) -> str:
    """A block of code, whatever backticks are in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
