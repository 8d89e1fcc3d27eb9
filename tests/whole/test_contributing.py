"""CONTRIBUTING.md is true: its diagram is the house, and all that it shows to add works."""

import json
import re
from pathlib import Path

import pytest
from floors import FLOORS
from shell import shell
from tiny_run import REPO

TEXT = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", TEXT)
KINDS = ("divergence", "loss term", "architecture", "method", "benchmark", "backend", "template")


def files() -> dict[str, str]:
    """The files that the page shows: each begins with its name."""
    named = {}
    for language, body in BLOCKS:
        if language in {"python", "yaml"}:
            found = re.match(r"# (\w+\.(?:py|yaml))\b", body)
            assert found, f"no file name: {body[:60]!r}"
            named[found[1]] = body
    return named


def commands(word: str) -> str:
    """The shell commands of the one block that has the word."""
    (block,) = [body for language, body in BLOCKS if language == "bash" and word in body]
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the page's files, as a reader would make it."""
    made = tmp_path_factory.mktemp("contributing")
    for name, body in files().items():
        (made / name).write_text(body, encoding="utf-8")
    return made


def test_it_is_one_page_with_one_diagram():
    assert len([line for line in TEXT.splitlines() if not line.startswith("<!--")]) <= 150
    assert [language for language, _ in BLOCKS].count("text") == 1
    assert all(len(line) <= 120 for line in TEXT.splitlines())


def test_the_diagram_is_the_house_from_the_top_down():
    (diagram,) = [body for language, body in BLOCKS if language == "text"]
    found: dict[str, list[str]] = {}
    for line in diagram.splitlines():
        if title := re.match(r"(\w+): ", line):
            house = found.setdefault(title[1], [])
        elif names := re.match(r"  (\S.*?) {3,}\S", line):
            house += names[1].split("  ")
    assert found == {house: FLOORS[house] for house in ("distillens_plugin", "eval_harness")}


def test_each_kind_of_thing_is_shown_in_under_ten_lines():
    for kind in KINDS:
        assert re.search(rf"\*\*an?\s{kind}\*\*", TEXT, flags=re.IGNORECASE), kind
    for name, body in files().items():
        lines = [line for line in body.splitlines() if line.strip() and not line.startswith("#")]
        # The backend's file also registers the template, and runs both.
        most = 12 if name == "my_backend.py" else 9
        assert len(lines) <= most, f"{name}: {len(lines)} lines"


def test_the_files_and_folders_that_it_names_exist():
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(targets) >= 8
    for target in targets:
        assert (REPO / target).exists(), target
    for name in re.findall(r"`((?:tests/)?\w+/\w+\.py)`", TEXT):
        below = REPO if name.startswith("tests/") else REPO / "distillens_plugin"
        assert (below / name).exists(), name


def test_a_divergence_a_term_and_an_architecture_of_ones_own_take_a_step(folder):
    printed = shell(commands("my_method.yaml"), folder).stdout
    # The squared Hellinger distance without its half lies in [0, 2].
    kd = re.search(r"^  kd: (\S+)$", printed, flags=re.MULTILINE)
    assert kd
    assert 0 < float(kd[1]) <= 2
    length = re.search(r"^  length: (\S+)$", printed, flags=re.MULTILINE)
    assert length
    assert float(length[1]) > 0
    assert not (folder / "runs").exists()


def test_without_trust_nothing_of_ones_own_is_imported(folder):
    script = commands("my_method.yaml").replace("--trust-recipe --dry-run", "--validate")
    assert "--trust-recipe" not in script
    script = script.strip() + ' 2>&1 && exit 1 || test "$?" = 2'
    printed = shell(script, folder).stdout
    assert "my_divergence" in printed
    assert "--trust-recipe" in printed


def test_a_benchmark_of_ones_own_is_run_and_a_backend_and_a_template_answer_it(folder):
    printed = shell(commands("my_benchmark.yaml"), folder).stdout
    assert re.search(r"^capitals +1 +rougeL", printed, flags=re.MULTILINE)

    shell("python my_backend.py", folder)
    (results,) = (folder / "out" / "echo").rglob("results_*.json")
    protocol = json.loads(results.read_text())["configs"]["capitals"]["protocol"]
    assert protocol["template"].startswith("exam@")
    (samples,) = (folder / "out" / "echo").rglob("samples_*.jsonl")
    # The backend echoes the prompt, which the template made.
    assert "Q: What is the capital of France?" in samples.read_text()
