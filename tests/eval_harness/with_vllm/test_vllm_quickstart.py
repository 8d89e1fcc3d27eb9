"""The user's path: a student that the quickstart has trained, evaluated by both backends.

Training needs another environment, so the student comes from outside: DISTILLENS_STUDENT names its
folder.
"""

import os
from pathlib import Path

import pytest

from eval_harness.results.folder import load_results

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]

NUM_ROWS = 32


@pytest.fixture
def student() -> Path:
    name = os.environ.get("DISTILLENS_STUDENT")
    if name:
        return Path(name)
    if os.environ.get("CI") == "true":
        pytest.fail("CI must name the quickstart's student folder in DISTILLENS_STUDENT")
    pytest.skip("needs a trained student: set DISTILLENS_STUDENT to the quickstart's folder")


def test_greedy_scores_of_the_quickstart_s_student_agree_between_backends(
    harness, student, tmp_path
):
    tasks = []
    for model, more in [("vllm", ",enforce_eager=true"), ("hf", "")]:
        done = harness(
            *("run", "--model", model, "--output_path", tmp_path / model),
            *("--model_args", f"pretrained={student},dtype=float32{more}"),
            *("--tasks", "gsm8k", "--protocol", "greedy", "--limit", NUM_ROWS),
            *("--template", "question", "--max_prompt_tokens", 384, "--loglikelihood"),
        )
        assert done.returncode == 0, done.stderr
        tasks.append(load_results(tmp_path / model).tasks["gsm8k"])
    one, other = tasks
    same = [a.resps == b.resps for a, b in zip(one.samples, other.samples, strict=True)]
    # Trained weights may have a near tie somewhere; float32 leaves at most one in so few rows.
    assert sum(same) >= NUM_ROWS - 1
    assert one.metrics["rougeL,none"] == pytest.approx(other.metrics["rougeL,none"], abs=0.5)
    assert one.metrics["nll,none"] == pytest.approx(other.metrics["nll,none"], rel=1e-4)
