"""A task's entry in the results' `configs`: lm-eval's keys, and what it lacks words for."""

from typing import Any

from eval_harness.generation.task import Task
from eval_harness.protocols.generation_kwargs import generation_kwargs
from eval_harness.scoring.checked_metrics import aggregation


def task_config(task: Task) -> dict[str, Any]:
    """The task as it was run.

    `description` is text before each prompt for lm-eval, so the benchmark's own is in `metadata`.
    """
    benchmark, protocol = task.benchmark, task.protocol
    own = benchmark.to_json()
    return {
        "task": benchmark.task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": benchmark.location()}},
        "test_split": "test",
        "doc_to_text": protocol.template,
        "doc_to_target": benchmark.fields.get("output", "output"),
        "unsafe_code": False,
        "num_fewshot": protocol.num_fewshot,
        "metric_list": [
            {"metric": metric, "aggregation": aggregation(metric), "higher_is_better": True}
            for metric in benchmark.metrics
        ],
        "output_type": "generate_until",
        "generation_kwargs": generation_kwargs(protocol),
        "repeats": len(protocol.seeds),
        "should_decontaminate": False,
        **own,
        "description": "",
        "metadata": {"version": benchmark.version, "description": own["description"]},
        "protocol": protocol.settings(),
        "prompts": task.prompts.counts.to_json(),
    }
