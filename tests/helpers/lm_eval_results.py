"""Small runs of lm-eval 0.4.13, written out: its results and samples without a model."""

import json
from pathlib import Path

TIME = "2026-01-02T03-04-05.678901"


def lm_eval_sample(doc_id: int, target: str, filter_name: str = "none", **scores: float) -> dict:
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Question {doc_id}?"},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": f"Question {doc_id}?", "arg_1": {"until": ["\n"]}}},
        "resps": [[f"answer {doc_id}"]],
        "filtered_resps": [f"answer {doc_id}"],
        "filter": filter_name,
        "metrics": list(scores),
        **scores,
    }


def save_lm_eval(
    folder: Path, rows: list[dict], *, task: str = "arc", output_type: str = "generate_until"
) -> Path:
    """Writes a run of lm-eval; the results are the means of the rows' values."""
    (folder / "m").mkdir(parents=True)
    values: dict[str, list[float]] = {}
    for row in rows:
        for name in row["metrics"]:
            values.setdefault(f"{name},{row['filter']}", []).append(row[name])
    means = {name: sum(found) / len(found) for name, found in values.items()}
    num_rows = len({row["doc_id"] for row in rows})
    content = {
        "results": {task: {"name": task, "alias": task, **means}, "group": {"alias": "group"}},
        "group_subtasks": {"group": [task]},
        "configs": {task: {"task": task, "output_type": output_type}},
        "n-samples": {task: {"original": 9, "effective": num_rows}},
        "n-shot": {task: 0},
        "lm_eval_version": "0.4.13",
        "model_name": folder.name,
    }
    file = folder / "m" / f"results_{TIME}.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "m" / f"samples_{task}_{TIME}.jsonl").write_text(text, encoding="utf-8")
    return folder
