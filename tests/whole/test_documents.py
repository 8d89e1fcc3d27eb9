"""README and docs: what they link, name and measure is there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def page_id(page: Path) -> str:
    return page.name


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub spells them in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_and_modules_are_there(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?:recipes|benchmarks|eval_harness)/[\w./-]+\.(?:py|yaml)\b", text):
        # An example is the reader's own; pages about tests name them by their folder below tests/.
        if path != "recipes/my_gpt2.yaml":
            assert (REPO / path).exists() or (REPO / "tests" / path).exists(), path
    for module in re.findall(r"(?:python|launch|torchrun)\b[^`\n]* -m ([a-z_.]+)", text):
        if module.startswith(("distillens_plugin", "eval_harness")):
            assert importlib.util.find_spec(module), module


def test_named_tests_are_there():
    files = {path.name for path in (REPO / "tests").rglob("test_*.py")}
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 40
    assert named <= files, named - files


def test_every_key_of_ours_is_explained():
    from distillens_plugin.divergences import DIVERGENCES
    from distillens_plugin.integrations.torchdistill.registry import KINDS

    page = (REPO / "docs" / "torchdistill.md").read_text(encoding="utf-8")
    names = {key for kind in KINDS for key in kind.own} | set(DIVERGENCES)
    assert len(names) > 20
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"docs/(\w+\.md)", (REPO / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in PAGES[1:]}


@pytest.mark.parametrize("name", ["lens.svg", "how_it_works.svg"])
def test_the_pictures_load_nothing(name):
    picture = (REPO / "docs" / name).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in picture
    assert not re.search(r"href|@import|@font-face|url\((?!#)|<script|<image", picture)


@pytest.fixture(scope="module")
def measured() -> str:
    """What benchmarks/differences.py prints, without its slowest part."""
    script = REPO / "benchmarks" / "differences.py"
    done = subprocess.run(
        [sys.executable, script, "epsilon", "skew"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_of_differences_has_what_its_script_prints(measured):
    page = (REPO / "docs" / "differences.md").read_text(encoding="utf-8")
    epsilon = re.findall(r"the paper's code -(\d\.\d\d)e-0(\d)", measured)
    skew = re.findall(r"gradient (\d+)% apart, cosine (\d\.\d+)", measured)
    assert (len(epsilon), len(skew)) == (4, 3)
    for digits, exponent in epsilon:
        assert f"-{digits}e-{exponent}" in page
    for percent, cosine in skew:
        assert f"{percent} % apart, cosine {cosine}" in page


def test_the_other_codes_mask_is_right_for_one_row_only(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    from other_code import Sizes, float64_lens, random_gpt2, random_rows, reference_lens

    sizes = Sizes((8, 48), (8, 64), (2, 4, 6), (2, 4, 6))
    student, teacher = random_gpt2(8, 48, seed=0), random_gpt2(8, 64, seed=1)

    def off(num_rows: int) -> float:
        rows = random_rows(num_rows, seed=0)
        right = float64_lens(student.double(), teacher.double(), rows, sizes).item()
        return abs(reference_lens(student.float(), teacher.float(), rows, sizes).item() / right - 1)

    assert off(1) < 1e-3
    assert off(4) > 1e-2
