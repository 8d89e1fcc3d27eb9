"""A study of a tiny pair on the quickstart's data: two methods, two seeds, three steps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tiny_run import REPO, tiny_recipe

ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
}
METHODS = REPO / "recipes" / "methods"


def tiny_study(folder: Path, **changes: Any) -> Path:
    """study.yaml in `folder`, writing to `folder`/out.

    Args:
        changes: top-level keys to replace; None takes one out.
    """
    tiny_recipe(folder)
    rows = folder / "rows.jsonl"
    valid = (REPO / "recipes" / "quickstart" / "valid.jsonl").read_text(encoding="utf-8")
    rows.write_text("".join(line + "\n" for line in valid.split("\n")[:6]), encoding="utf-8")
    study = {
        "title": "A tiny study",
        "recipe": "recipe.yaml",
        "set": {"models.student_model.tokenizer": "./teacher", "log_every": 1, "threads": 1},
        "methods": {
            "sft": {"label": "SFT", "fragments": [str(METHODS / "sft.yaml")]},
            "lens": {"label": "DistillLens", "set": {"lens_weight": 0.5}},
        },
        "seeds": [1, 2],
        "compare_to": ["sft"],
        "evaluation": {
            "tasks": ["gsm8k"],
            "data": {"gsm8k": "./rows.jsonl"},
            "protocols": ["default", "greedy"],
            "seeds": [10, 20],
            "gen_kwargs": {"max_new_tokens": 8},
        },
        "output_dir": "./out",
    }
    path = folder / "study.yaml"
    kept = {key: value for key, value in {**study, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path


def study_command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "distillens_plugin.cli", "study", *map(str, arguments)]


def run_study(*arguments: Any, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        study_command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=ENVIRONMENT,
        cwd=REPO,
    )


def fake_run(
    folder: Path, fingerprint: str, *, losses: dict[int, float], seconds: float = 10.0
) -> None:
    """Writes what a finished run leaves: run.json, summary and metrics."""
    train = folder / "train"
    train.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"fingerprint": fingerprint, "resolved": {}}))
    validation = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    best = min(validation, key=lambda entry: entry["validation_loss"])
    summary = {
        "validation_loss_after": validation[-1]["validation_loss"],
        "best_step": best["step"],
        "validation": validation,
        "num_steps": max(losses),
        "train_seconds": seconds,
        "seconds": seconds + 2,
        "peak_memory_bytes": 2**28,
    }
    (train / "summary.json").write_text(json.dumps(summary))
    records = [{"step": 0, "validation_loss": 9.0}, *validation]
    (train / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def fake_divergence(folder: Path, fingerprint: str) -> None:
    """Writes what a run leaves whose loss was not finite."""
    (folder / "train").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"fingerprint": fingerprint, "resolved": {}}))
    (folder / "train" / "diverged.json").write_text(json.dumps({"reason": "step 3: nan"}))
