"""A run's folder written by hand: all the files that a report reads, in a moment."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

LAYERS = [0, 1, 2, 3, 4]
PAIRS = [[1, 1], [2, 2], [3, 3]]
RECIPE: dict[str, Any] = {
    "models": {
        "teacher_model": {"name_or_path": "somewhere/of/mine/quickstart/teacher"},
        "student_model": {"init": {"config": {"model_type": "llama", "num_hidden_layers": 4}}},
    },
    "train": {
        "num_steps": 60,
        "criterion": {
            "kwargs": {
                "sub_terms": {
                    "kd": {"criterion": {"key": "distillens.logits_kd"}, "weight": 1.0},
                    "lens": {"criterion": {"key": "DistillLensLoss"}, "weight": 3.0},
                }
            }
        },
    },
    "seed": 10,
    "output_dir": "runs/by_hand",
}


def run_by_hand(
    folder: Path,
    *,
    num_steps: int = 60,
    finished: bool = True,
    answers: Sequence[str] = ("#### 1", "#### 7, I think", "#### 8"),
    **changes: Any,
) -> Path:
    """A run of 60 steps with three validations, whose lens readings approach the teacher's.

    Args:
        answers: one for each of the steps 0, 20, 40, ... at which answers were kept.
        changes: top-level keys of the recipe to replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_dump({**RECIPE, **changes}, sort_keys=False)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    records = [validation(0)]
    for step in range(10, num_steps + 1, 10):
        records.append(training(step))
        if step % 20 == 0:
            records.append(validation(step))
    write_lines(folder / "metrics.jsonl", records)
    steps = range(0, num_steps + 1, 20)
    write_lines(folder / "lens.jsonl", [lens_line(step) for step in steps])
    write_lines(
        folder / "answers.jsonl",
        [
            {
                "step": 20 * number,
                "row": "valid-0",
                "prompt": "Question: How many cups?\nAnswer:",
                "answer": answer,
                "reference": "#### 8",
            }
            for number, answer in enumerate(answers)
        ],
    )
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary(num_steps)), encoding="utf-8")
    return folder


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def training(step: int) -> dict[str, Any]:
    """A training record; everything decays with the steps."""
    left = math.exp(-step / 40)
    lens = {f"lens/{a}-{b}": 0.1 + (0.4 + 0.05 * a) * left for a, b in PAIRS}
    mean = sum(lens.values()) / len(lens)
    return {
        "step": step,
        "epoch": 0,
        "lr": 1e-3 * step / 60,
        "tokens_per_s": 2900.0 + step,
        "peak_memory_bytes": 1_100_000_000 + 1_000_000 * step,
        "loss": 1 + 5 * left + 3 * mean,
        "num_supervised": 1500.0,
        "kd": 1 + 5 * left,
        "lens": mean,
        **lens,
        "grad_norm": 0.8 + left,
    }


def validation(step: int) -> dict[str, Any]:
    left = math.exp(-step / 40)
    return {
        "step": step,
        "epoch": round(step / 300, 4),
        "validation_loss": 4 + 3.6 * left,
        "val/kd": 1.1 + 5 * left,
        "val/lens": 0.12 + 0.5 * left,
        "val/lens/1-1": 0.11 + 0.45 * left,
    }


def lens_line(step: int) -> dict[str, Any]:
    left = math.exp(-step / 20)
    teacher = [2.0, 5.0, 4.0, 3.0, 1.5]
    line: dict[str, Any] = {
        "step": step,
        "norm": "identity",
        "seconds": 0.2,
        "num_positions": 256,
        "student": {
            "layers": LAYERS,
            "entropy": [value + (7.5 - value) * left for value in teacher],
            "kl_from_final": [4 - layer + left for layer in LAYERS],
            "true_rank": [2000 * left + 10 * (5 - layer) for layer in LAYERS],
            "top1": [0.1 * layer * (1 - left) for layer in LAYERS],
        },
        "confidence": {
            "pairs": PAIRS,
            "surer_share": [0.1, 0.2, 0.3],
            "surer_by": [0.05, 0.1, 0.2],
            "less_sure_share": [0.9 * left, 0.7 * left, 0.6 * left],
            "less_sure_by": [2.5 * left, 3.5 * left, 4.5 * left],
        },
    }
    if step == 0:
        line["teacher"] = {
            "layers": LAYERS,
            "entropy": teacher,
            "kl_from_final": [3.5, 3.0, 2.0, 1.0, 0.0],
            "true_rank": [900, 300, 80, 20, 4],
            "top1": [0.0, 0.1, 0.2, 0.3, 0.4],
        }
    return line


def summary(num_steps: int) -> dict[str, Any]:
    return {
        "best_by": "validation_loss",
        "best_step": num_steps,
        "best_score": 4.8,
        "num_steps": num_steps,
        "stopped_early": None,
        "seconds": 34.6,
        "train_seconds": 26.7,
        "tokens_per_s": 2980.3,
        "peak_memory_bytes": 1_187_012_608,
        "seed": 10,
        "num_processes": 1,
        "versions": {"distillens": "0.1.0"},
    }
