"""The section on TRL of docs/trainers.md is true: its files run as they stand."""

import re

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

from safetensors.torch import load_file
from shell import run_of_page
from tiny_run import ASSETS, REPO

TEXT = (REPO / "docs" / "trainers.md").read_text(encoding="utf-8")
(SECTION,) = re.findall(r"(?ms)^## TRL\n(.*?)(?=^## )", TEXT)
# Fewer steps and tokens, on the CPU.
CHANGES = (
    ("max_steps=20", "max_steps=2, bf16=False, use_cpu=True"),
    ("logging_steps=10", "logging_steps=1"),
    ("=32", "=4"),
)


def files(text):
    """The Python files of a text, by name."""
    return {
        name: f"# {name}\n{body}"
        for name, body in re.findall(r"(?ms)^```python\n# (\w+\.py)\n(.*?)^```$", text)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, fewer steps in them, and the shipped models."""
    made = tmp_path_factory.mktemp("trl")
    for name, body in (files(SECTION) | {"my_parts.py": files(TEXT)["my_parts.py"]}).items():
        for old, new in CHANGES:
            body = body.replace(old, new)
        (made / name).write_text(body, encoding="utf-8")
    (made / "shipped").mkdir()
    (made / "shipped" / "quickstart").symlink_to(ASSETS)
    return made


def commands():
    (lines,) = re.findall(r"(?ms)^```bash\n(.*?)^```$", SECTION)
    return lines.splitlines()


def test_the_commands():
    assert sorted({line.split()[-1] for line in commands()}) == sorted(files(SECTION))
    launchers = [line.split()[0] for line in commands() if line.endswith("my_trl.py")]
    assert launchers == ["python", "torchrun", "accelerate"]


def test_distillation_on_two_processes(folder):
    printed = run_of_page(commands()[2], folder)
    assert printed.count("'lens/2-2':") == 2  # two logs, of one process
    assert load_file(folder / "out" / "trl" / "model.safetensors")


def test_gkd(folder):
    printed = run_of_page(commands()[3], folder)
    assert printed.count("'lens/2-2':") == 2
    assert load_file(folder / "out" / "gkd" / "model.safetensors")
