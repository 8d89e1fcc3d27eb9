"""What mkdocs does not do by itself: the README, CONTRIBUTING and files that pages link to.

On GitHub a page links to `../recipes/gpt2.yaml`, and that works there. The site has only docs/, and
no address of a repository is known to it. So each such file becomes a page that shows it, each such
folder a page that lists its files, and the links lead there. README.md is the first page of the
site, CONTRIBUTING.md its last.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from notebook_page import fenced, notebook_page

REPO = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
SHOWN = "repository"
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:|data:)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files outside docs/, as far as links lead to them."""
    notebooks = [file for file in files if file.src_uri.endswith(".ipynb")]
    for notebook in notebooks:
        text = notebook_page(Path(str(notebook.abs_src_path)))
        _add(files, config, notebook.src_uri.removesuffix(".ipynb") + ".md", text)
    for source, page in PAGES.items():
        _add(files, config, page, _rewritten((REPO / source).read_text("utf-8"), Path(source)))
    waiting = [
        target
        for file in list(files.documentation_pages())
        for target in _targets(file.content_string, Path("docs") / file.src_uri)
    ]
    waiting += [
        target
        for source in PAGES
        for target in _targets((REPO / source).read_text("utf-8"), Path(source))
    ]
    while waiting:
        target = waiting.pop()
        if files.get_file_from_path(_page_of(target)) is None and (REPO / target).exists():
            waiting += [path.relative_to(REPO) for path in _listed(REPO / target)]
            _add(files, config, _page_of(target), _shown(target))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that leave docs/ into links to the pages made above."""
    source = page.file.src_uri
    return markdown if source in PAGES.values() else _rewritten(markdown, Path("docs") / source)


def _add(files: Files, config: MkDocsConfig, name: str, content: str) -> None:
    if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, content=content))


def _targets(markdown: str, source: Path) -> list[Path]:
    """The files and folders of the repository outside docs/ that a text links to."""
    found = [_target(match[1], source) for match in _LINK.finditer(_FENCE.sub("", markdown))]
    return [path for path in found if path.parts[0] != "docs" and str(path) not in PAGES]


def _target(link: str, source: Path) -> Path:
    return Path(posixpath.normpath(posixpath.join(source.parent.as_posix(), link)))


def _rewritten(markdown: str, source: Path) -> str:
    """The text with its links as the site has them; code stays as it is."""
    from_page = PAGES.get(str(source), str(source).removeprefix("docs/"))

    def link(match: re.Match[str]) -> str:
        target = _target(match[1], source)
        if target.parts[0] == "docs":
            page = str(target).removeprefix("docs/")
        else:
            page = PAGES.get(str(target)) or _page_of(target)
        if page.endswith(".ipynb"):
            page = page.removesuffix(".ipynb") + ".md"
        there = posixpath.relpath(page, posixpath.dirname(from_page) or ".")
        return there + (match[2] or "")

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(link, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, markdown[end:])])


def _page_of(target: Path) -> str:
    """The page that shows a file or folder of the repository."""
    return f"{SHOWN}/{target.as_posix()}.md"


def _listed(target: Path) -> list[Path]:
    if not target.is_dir():
        return []
    return sorted(path for path in target.iterdir() if path.suffix in (".yaml", ".py", ".md"))


def _shown(target: Path) -> str:
    """A page with the text of a file, or with links to a folder's files."""
    path = REPO / target
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {target.as_posix()}\n\n"
    if path.is_dir():
        return head + "".join(
            f"- [{each.name}]({target.name}/{each.name}.md)\n" for each in _listed(path)
        )
    if not path.suffix and path.name != "LICENSE":
        raise ValueError(f"docs link to {target}: only files of text and folders can be shown")
    text = path.read_text("utf-8")
    kind = {".py": "python", ".yaml": "yaml", ".md": "markdown"}.get(path.suffix, "text")
    return f"{head}{fenced(text, kind)}\n"
