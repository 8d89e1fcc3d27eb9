"""docs/trainers.md is true: its files run as they stand, on one process or on two."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shell import run_of_page
from tiny_run import ASSETS, REPO

TEXT = (REPO / "docs" / "trainers.md").read_text(encoding="utf-8")
# Of the training rows the first 100 are held out; 8 rows a step are an eighth of the rest.
NUM_ROWS = 164


def sections() -> list[str]:
    """The page's sections that are this test's; TRL's has a test of its own."""
    parts = re.split(r"(?m)^## ", TEXT)
    return [part for part in parts if not part.startswith("TRL")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", "\n".join(sections()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's files and the shipped models, as a reader would have them; few steps and rows."""
    made = tmp_path_factory.mktemp("trainers")
    for body in blocks("python"):
        name = re.match(r"# (\w+\.py)\b", body)
        assert name, f"no file name: {body[:60]!r}"
        body = body.replace("range(20)", "range(10)").replace("max_steps=20", "max_steps=4")
        body = body.replace("logging_steps=10", "logging_steps=2")
        (made / name[1]).write_text(body, encoding="utf-8")
    shipped = made / "shipped" / "quickstart"
    shipped.mkdir(parents=True)
    for part in ("tokenizer", "teacher"):
        (shipped / part).symlink_to(ASSETS / part)
    rows = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (shipped / "train.jsonl").write_text("".join(rows[:NUM_ROWS]), encoding="utf-8")
    return made


def commands(file: str) -> list[str]:
    """The page's commands that run a file."""
    whole = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in whole if f" {file}" in line]


def run(command: str, folder: Path) -> str:
    """Runs a command of the page, with fewer steps; returns what it prints."""
    command = command.replace("max_steps 20", "max_steps 4").replace("_steps 10", "_steps 2")
    return run_of_page(command, folder)


def test_each_face_is_shown_alone_and_with_both_launchers():
    for file in ("my_loop.py", "my_trainer.py", "my_lightning.py"):
        assert [line.split()[0] for line in commands(file)] == ["python", "torchrun", "accelerate"]


def test_a_loop_of_ones_own_on_two_processes(folder):
    printed = run(commands("my_loop.py")[1], folder)
    found = re.findall(r"^10 \{'lens/1-1': [\d.]+, 'lens/2-2'", printed, flags=re.MULTILINE)
    assert len(found) == 1
    assert (folder / "out" / "loop" / "model.safetensors").exists()


def test_transformers_trainer(folder):
    printed = run(commands("my_trainer.py")[0], folder)
    assert "'lens/2-2':" in printed
    assert "'eval_lens/2-2':" in printed
    checkpoint = load_file(folder / "out" / "trainer" / "checkpoint-4" / "model.safetensors")
    saved = load_file(folder / "out" / "trainer" / "model.safetensors")
    assert checkpoint.keys() == saved.keys()
    assert all(torch.equal(checkpoint[name], saved[name]) for name in saved)


def test_transformers_trainer_on_two_processes(folder):
    printed = run(commands("my_trainer.py")[2], folder)
    assert printed.count("'eval_lens/1-1':") == 1
    # Four steps of 4 rows by two processes; one alone would be at 0.25.
    assert "'epoch': '0.5'}" in printed
    assert (folder / "out" / "accelerate" / "model.safetensors").exists()


def test_a_trainer_of_ones_own_takes_under_ten_lines(folder):
    printed = run("python my_mixin.py", folder)
    assert "'trainer_loss':" in printed
    assert "'lens/2-2':" in printed
    body = (folder / "my_mixin.py").read_text(encoding="utf-8")
    added = body[body.index("class ShortAnswersWithLens") :].split("\n\n")
    assert sum(len(part.strip().splitlines()) for part in added) < 10


def test_lightning_on_two_processes(folder):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    printed = run(commands("my_lightning.py")[1], folder)
    assert "2 processes" in printed
    assert (folder / "out" / "lightning" / "model.safetensors").exists()


def test_distillkit_is_only_compiled(folder):
    """It is not on the package index: nothing here can run it."""
    compile((folder / "my_distillkit.py").read_text(encoding="utf-8"), "my_distillkit.py", "exec")
