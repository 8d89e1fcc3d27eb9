"""From a template to a page that needs no other file, and runs no script but the project's own."""

import base64
import hashlib
import importlib.resources

_BASE = "base.html.j2"
_PARTS = "parts.html.j2"


def render(package: str, template: str, **values: object) -> str:
    """Fills a template.

    Values are escaped, whatever is in them. A Content-Security-Policy in the page lets the browser
    run the one script of these parts, known by its hash, and load nothing at all.

    Args:
        package: that holds the template, such as eval_harness.
        template: its path in the package. It extends base.html.j2 and may import parts.html.j2,
            which are found by these names.
        values: for the template.
    Raises:
        jinja2.UndefinedError: the template asks for a value that was not given.
    """
    import jinja2
    from markupsafe import Markup

    source = importlib.resources.files(package).joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: _own(name) for name in (_BASE, _PARTS)}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment.globals |= {
        "page_style": Markup(_own("style.css")),  # these files are ours
        "page_script": Markup(script),
        "page_script_hash": f"sha256-{digest}",
    }
    return environment.from_string(source).render(**values)


def _own(name: str) -> str:
    files = importlib.resources.files("eval_harness").joinpath("shared/pages")
    return files.joinpath(name).read_text(encoding="utf-8")
