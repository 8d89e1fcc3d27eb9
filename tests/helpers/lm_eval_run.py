"""Runs the lm_eval command that `export-lm-eval` prints, and compares its samples with ours."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval_harness.results.folder import load_results
from eval_harness.results.schema import TaskResult
from eval_harness.shared.text.answers import cut_answer

METRICS = ("rougeL", "rougeL_unicode", "exact_match", "final_answer")


def run_printed(
    printed: str, model: Path, folder: Path, *more: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the command with the task folder moved from `first` to `moved`.

    Returns:
        lm-eval's results of the task, and its samples.
    """
    (folder / "first").rename(folder / "moved")
    words = shlex.split(printed.partition("run them with: ")[2].strip())
    assert words[0] == "lm_eval"
    given = {"OUT": "theirs", "first": "moved"}
    words = [given.get(word, word).replace("MODEL", f"{model},dtype=float32") for word in words[1:]]
    command = [sys.executable, "-m", "lm_eval", *words, "--device", "cpu", "--limit", "4", *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (folder / "theirs").glob("*/results_*.json")
    (samples,) = (folder / "theirs").glob("*/samples_*.jsonl")
    (task,) = json.loads(results.read_text())["results"].values()
    rows = [json.loads(line) for line in samples.read_bytes().split(b"\n") if line]
    return task, sorted(rows, key=lambda row: row["doc_id"])


def compare_samples(
    harness: Callable[..., Any], model: Path, folder: Path, printed: str, how: tuple[str, ...]
) -> TaskResult:
    """Asks the same rows of gsm8k ourselves, and compares prompts, answers and scores."""
    theirs, rows = run_printed(printed, model, folder)
    done = harness(
        *("--model", "hf", "--model_args", f"pretrained={model}", "dtype=float32"),
        *("--tasks", "gsm8k", "--limit", "4", "--output_path", "ours", "--device", "cpu", *how),
        *("--max_prompt_tokens", "1000"),
    )
    assert done.returncode == 0, done.stderr
    ours = load_results(folder / "ours").tasks["gsm8k"]
    assert len(rows) == len(ours.samples) == 4
    for row, sample in zip(rows, ours.samples, strict=True):
        assert row["arguments"]["gen_args_0"]["arg_0"] == sample.arguments["gen_args_0"]["arg_0"]
        # None of these runs names stops of its own.
        starts = ours.fingerprint.protocol["until"]
        answer = cut_answer(row["filtered_resps"][0], starts=starts, references=sample.target)
        assert answer == sample.filtered_resps[0]
        for metric in METRICS:
            assert abs(row[metric] - sample.scores[metric][0]) < 1e-4, metric
    for metric in METRICS:
        assert abs(theirs[f"{metric},none"] - ours.metrics[f"{metric},none"]) < 1e-4
    assert any(sample.filtered_resps[0] for sample in ours.samples)
    return ours
