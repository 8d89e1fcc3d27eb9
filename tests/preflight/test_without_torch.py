"""`--validate` in a process of its own: what it loads, and what it says before."""

import json
import os
import subprocess
import sys
from pathlib import Path

from local_recipe import CONFIGS, ROW
from recipe_text import FINE_TUNING, write_recipe

REPO = Path(__file__).resolve().parents[2]
VALIDATE = """
import sys
from distillens_plugin.run import main
code = main(sys.argv[1:])
print("loaded:", *(name for name in ("torch", "torchdistill") if name in sys.modules))
sys.exit(code)
"""


def validate(recipe: Path, *options: str, before: str = "") -> list[str]:
    """The lines of `--validate` in a process of its own; the last one names what it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", before + VALIDATE, str(recipe), "--validate", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LOADING = "loading torch and transformers ..."


def test_a_recipe_that_needs_no_torch_is_validated_without(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    tokenizer = REPO / "recipes" / "quickstart" / "tokenizer"
    options = (
        f"--set=models.teacher_model.name_or_path={CONFIGS / 'teacher-gpt2-1.5B'}",
        f"--set=models.student_model.name_or_path={CONFIGS / 'gpt2'}",
        f"--set=models.teacher_model.tokenizer={tokenizer}",
        f"--set=models.student_model.tokenizer={tokenizer}",
        f"--set=datasets.train.path={data}",
        f"--output_dir={tmp_path / 'run'}",
    )
    recipe = write_recipe(tmp_path)
    *lines, loaded = validate(recipe, *options)
    assert loaded == "loaded:"
    assert LOADING not in lines
    text = "\n".join(lines)
    assert "ok the layers of lens: 1-2 2-4" in text
    assert "ok tokenizer: " in text
    # Where the models are built all the same, they are found to be the same.
    built = (
        "import torch, torchdistill\n"
        "from distillens_plugin.preflight import models\n"
        "models.known_facts = lambda *_, **__: None\n"
        "from distillens_plugin.models import tokenizers\n"
        "tokenizers._needs_torch = lambda path: True\n"
    )
    *with_torch, loaded = validate(recipe, *options, before=built)
    assert loaded == "loaded: torch torchdistill"
    assert with_torch == lines


def test_a_recipe_whose_models_are_out_of_reach_needs_no_torch(tmp_path):
    # With a cache of its own, in which nothing can lie.
    name = tmp_path.name
    *lines, loaded = validate(
        write_recipe(tmp_path),
        f"--set=models.teacher_model.name_or_path=nobody/{name}-teacher",
        f"--set=models.student_model.name_or_path=nobody/{name}-student",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert loaded == "loaded:"
    assert sum("the Hub cannot be reached" in line for line in lines) == 4


def test_what_needs_torch_is_announced(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    lines = validate(
        write_recipe(tmp_path, FINE_TUNING),
        f"--set=models.model.name_or_path={CONFIGS / 'gpt2'}",
        "--set=models.model.lora.r=2",
        f"--set=datasets.train.path={data}",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert lines.count(LOADING) == 1
    assert lines[-1].startswith("loaded: torch")
    assert any(line.startswith("ok models.model.lora: on 12 modules") for line in lines)
