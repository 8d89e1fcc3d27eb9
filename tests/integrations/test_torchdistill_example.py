"""The script of docs/torchdistill.md, run as it stands with the README's recipe."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import save_tiny_model
from transformers import AutoModelForCausalLM

from eval_harness.shared.files.jsonl import write_jsonl

REPO = Path(__file__).resolve().parents[2]
MOST_LINES = 60


def block(page: Path, language: str, title: str) -> str:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(# {title}.*?)```", text, re.DOTALL)
    assert found, f"{page.name} shows no {title}"
    return found.group(1)


@pytest.fixture
def script(tmp_path):
    text = block(REPO / "docs" / "torchdistill.md", "python", r"distil\.py")
    assert text.count("\n") < MOST_LINES
    (tmp_path / "distil.py").write_text(text, encoding="utf-8")
    recipe = block(REPO / "README.md", "yaml", r"box\.yaml")
    (tmp_path / "box.yaml").write_text(recipe, encoding="utf-8")
    save_tiny_model(tmp_path / "teacher", layers=4)
    save_tiny_model(tmp_path / "student", layers=2, seed=2)
    rows = [{"instruction": f"Count to {n}.", "output": "1 2 3 " * (n % 4 + 1)} for n in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize("processes", [1, 2])
def test_it_trains_and_saves(script, processes):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["distil.py", "box.yaml", "teacher", "student", "rows.jsonl", "out"]
    done = subprocess.run(
        command,
        cwd=script,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before = AutoModelForCausalLM.from_pretrained(script / "student").state_dict()
    after = AutoModelForCausalLM.from_pretrained(script / "out").state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == len(before)
