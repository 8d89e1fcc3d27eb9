"""Figures: one drawing as PNG and as an SVG that belongs to its page."""

import re
import struct
import subprocess
import sys
from xml.etree import ElementTree

from eval_harness.shared.pages.figures import Figure, axes, finish, tidy
from eval_harness.shared.pages.palette import SERIES, shade


def drawn(name: str = "lines", width: float = 6.0) -> Figure:
    figure, panels = axes(1, 2, size=(width, 3))
    for panel in panels[0]:
        panel.plot([1, 2, 3], [2, 1, 3], label="$x$ & <b>")
        panel.set_xlabel("steps")
        panel.legend()
    return finish(figure, name=name, title="Lines", caption="Read it.", alt='two "lines" & more')


def test_the_svg_is_xml_with_text_a_name_and_the_pages_colours():
    svg = drawn().svg
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'two "lines" & more')
    texts = {
        "".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"steps", "$x$ & <b>"} <= texts
    assert "currentColor" in svg
    assert f"var(--series-1, {SERIES[0]})" in svg
    assert not re.search(r"<\?xml|<!DOCTYPE|<metadata", svg)
    assert 'xmlns="' not in drawn().inline


def test_the_same_figure_gives_the_same_bytes_and_another_name_other_ids():
    def ids(figure: Figure) -> set[str]:
        return set(re.findall(r'\bid="([^"]+)"', figure.svg))

    first, again, other = drawn(), drawn(), drawn("others")
    assert (first.svg, first.png) == (again.svg, again.png)
    assert ids(first)
    assert not ids(first) & ids(other)
    pointed = set(re.findall(r'(?:url\(|href=")#([^")]+)', first.svg))
    assert pointed <= ids(first)


def test_the_png_has_the_figures_size_and_a_wide_figure_says_so():
    assert struct.unpack(">II", drawn().png[16:24]) == (960, 480)
    assert (drawn().is_wide, drawn(width=9.0).is_wide) == (False, True)


def test_a_figure_drawn_by_matplotlibs_defaults_gets_the_style():
    from matplotlib.figure import Figure as Drawing

    figure = Drawing()
    panel = figure.subplots()
    panel.plot([1, 2], label="a")
    panel.set_title("A title")
    panel.legend()
    svg = finish(tidy(figure), name="a", title="A", caption="Read it.", alt="a").svg
    assert "#000000" not in re.findall(r"<text[^>]*>", svg)
    assert panel.get_title(loc="left") == "A title"


def test_text_on_a_cell_has_enough_contrast_over_the_whole_scale():
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for share in range(101):
        lights = sorted(luminance(colour) for colour in shade(share / 100))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def test_the_package_and_its_tables_load_without_matplotlib_and_jinja():
    code = (
        "import sys; sys.modules |= {'matplotlib': None, 'jinja2': None}\n"
        "import eval_harness.shared.pages.figures, eval_harness.shared.pages.heat_map\n"
        "import eval_harness.shared.pages.render, eval_harness.shared.pages.markdown\n"
        "eval_harness.shared.pages.figures.axes()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith(
        "figures need matplotlib, which is not installed here; pip install matplotlib"
    )
