"""Small results for the tests of reading, comparing and reporting."""

from pathlib import Path
from typing import Any

from eval_harness.results.folder import write_results
from eval_harness.results.schema import Fingerprint, Results, Sample, TaskResult
from eval_harness.scoring.score import score_samples
from eval_harness.scoring.task_metrics import task_metrics

SEEDS = [10, 20]
NASTY = "nul \x00 lone \ud800 line\u2028sep\u0085 crlf\r\n 😀 <script>alert(1)</script> | `x` $y$"


def make_samples(
    answers: list[list[str]], *, references: list[list[str]] | None = None, scored: bool = True
) -> list[Sample]:
    """One sample for each list of answers, one answer for each of SEEDS."""
    samples = [
        Sample(
            doc_id=index,
            doc={"id": f"row-{index}", "instruction": f"Question {index}?", "input": ""},
            target=references[index] if references else [f"the answer to number {index}"],
            arguments={"gen_args_0": {"arg_0": f"Question {index}?", "arg_1": {"seed": SEEDS}}},
            resps=texts,
            filtered_resps=[text.strip() for text in texts],
            seeds=SEEDS,
            num_tokens=[len(text.split()) for text in texts],
            finish_reason=["stop"] * len(texts),
        )
        for index, texts in enumerate(answers)
    ]
    if scored:
        score_samples(samples)
    return samples


def make_task(
    task: str,
    samples: list[Sample],
    *,
    protocol: dict[str, Any] | None = None,
    data: str = "d0",
    versions: dict[str, Any] | None = None,
) -> TaskResult:
    return TaskResult(
        task=task,
        metrics=task_metrics(samples) if samples else {},
        config={"task": task},
        version=1,
        num_original=len(samples),
        num_effective=len(samples),
        fingerprint=Fingerprint(
            protocol=protocol or {"template": "alpaca", "sampling": {"temperature": 1.0}},
            data=data,
            model={"path": "small"},
            versions=versions or {"transformers": "5.24"},
        ),
        samples=samples,
    )


def make_results(model_name: str, *tasks: TaskResult, date: float = 1_700_000_000.25) -> Results:
    return Results(
        model_name=model_name,
        config={"model": "hf", "model_args": "pretrained=small"},
        tasks={task.task: task for task in tasks},
        date=date,
    )


def save_answers(folder: Path, name: str, answers: list[list[str]], task: str = "small") -> Path:
    """A results folder; row n asks "Question n?", and its reference is right."""
    samples = make_samples(answers)
    for sample in samples:
        sample.doc["output"] = sample.target
    return write_results(make_results(name, make_task(task, samples)), folder).parent
