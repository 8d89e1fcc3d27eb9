"""lm-eval's own tools on our results, and the two results files of one task, field by field.

`lm_eval` runs the exported task once, with a small model; we run the same rows.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eval_harness.cli import main

pytest.importorskip("lm_eval", reason="lm-eval is not installed (it is in the dev extra)")

DOCS = Path(__file__).resolve().parents[3] / "docs/evaluation.md"
LENGTH = "max_gen_toks=8"


@pytest.fixture(scope="module")
def runs(small_gpt2, tmp_path_factory):
    """A folder with `theirs` and `ours`: one task, three rows, one model."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        {"id": f"r{n}", "instruction": f"What is {n} + 1?", "output": ["the answer", f"plus {n}"]}
        for n in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "sums.yaml").write_text("task: sums\npath: rows.jsonl\n", encoding="utf-8")
    common = ["--model", "hf", "--model_args", f"pretrained={small_gpt2},dtype=float32"]
    common += ["--device", "cpu", "--batch_size", "1", "--gen_kwargs", LENGTH]
    task = str(folder / "sums.yaml")
    exported = ["export-lm-eval", str(folder / "tasks"), "--tasks", task, "--protocol", "greedy"]
    assert main(exported) == 0
    command = [sys.executable, "-m", "lm_eval", *common, "--log_samples", "--tasks"]
    command += ["distillens_sums", "--include_path", "tasks", "--output_path", "theirs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    out = ["--output_path", str(folder / "ours")]
    assert main(["run", *common, "--tasks", task, "--protocol", "greedy", *out]) == 0
    return folder


def results_of(folder: Path) -> dict:
    (file,) = folder.glob("*/results_*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def samples_of(folder: Path) -> list[dict]:
    (file,) = folder.glob("*/samples_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def listed() -> set[str]:
    """The fields of lm-eval that docs say are different or missing."""
    section = DOCS.read_text(encoding="utf-8").partition("## For lm-eval's tools")[2]
    return set(re.findall(r"`([\w.*-]+)`", section.partition("\n## ")[0]))


def test_every_field_of_theirs_is_ours_or_listed_with_a_reason(runs):
    theirs, ours, known = results_of(runs / "theirs"), results_of(runs / "ours"), listed()
    assert [key for key in theirs if key not in ours and key not in known] == []
    for table, task in (("results", "sums"), ("configs", "sums"), ("config", None)):
        their = theirs[table][f"distillens_{task}"] if task else theirs[table]
        our = ours[table][task] if task else ours[table]
        missing = [key for key in their if key not in our and f"{table}.{key}" not in known]
        assert missing == [], table
    row = samples_of(runs / "ours")[0]
    assert [key for key in samples_of(runs / "theirs")[0] if key not in row] == []


def test_fields_have_the_same_meaning(runs):
    theirs, ours = results_of(runs / "theirs"), results_of(runs / "ours")
    for key in (
        *("lm_eval_version", "transformers_version", "group_subtasks", "chat_template"),
        *("chat_template_sha", "model_source", "model_name", "model_name_sanitized", "max_length"),
        *("eot_token_id", "tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token"),
    ):
        assert ours[key] == theirs[key], key
    for key in ("n-shot", "n-samples", "higher_is_better", "versions"):
        assert ours[key]["sums"] == theirs[key]["distillens_sums"], key
    our, their = ours["configs"]["sums"], theirs["configs"]["distillens_sums"]
    for key in ("metric_list", "output_type", "generation_kwargs", "num_fewshot", "description"):
        assert our[key] == their[key], key
    for key in ("model", "model_args", "device", "gen_kwargs", "model_dtype", "model_revision"):
        assert ours["config"][key] == theirs["config"][key], key
    assert float(ours["total_evaluation_time_seconds"]) > 0
    our, their = ours["results"]["sums"], theirs["results"]["distillens_sums"]
    assert our["sample_len"] == their["sample_len"] == 3
    for metric in ("rougeL", "exact_match"):
        for key in (f"{metric},none", f"{metric}_stderr,none"):
            assert our[key] == pytest.approx(their[key], abs=1e-4), key


def test_samples_have_the_same_requests_answers_hashes_and_scores(runs):
    for our, their in zip(samples_of(runs / "ours"), samples_of(runs / "theirs"), strict=True):
        for key in ("doc_id", "target", "resps", "filter", "metrics", "prompt_hash", "target_hash"):
            assert our[key] == their[key], key
        request = our["arguments"]["gen_args_0"]
        assert request["arg_0"] == their["arguments"]["gen_args_0"]["arg_0"]
        assert their["arguments"]["gen_args_0"]["arg_1"].items() <= request["arg_1"].items()
        assert our["rougeL"] == pytest.approx(their["rougeL"])
        assert our["filtered_resps"] == [text.strip() for text in their["filtered_resps"]]


def test_our_hashes_are_those_of_their_functions(runs):
    from lm_eval.utils import hash_string

    rows = samples_of(runs / "ours")
    for row in rows:
        dumped = json.dumps(row["doc"], indent=2, ensure_ascii=False)
        assert row["doc_hash"] == hash_string(dumped)
    joined = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    assert results_of(runs / "ours")["task_hashes"] == {"sums": hash_string(joined)}


def test_make_table_prints_our_results(runs):
    from lm_eval.utils import make_table

    content = results_of(runs / "ours")
    value = content["results"]["sums"]["rougeL,none"]
    line = next(line for line in make_table(content).splitlines() if "|rougeL " in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == ["none", "0", "rougeL", "↑", f"{value:.4f}", "±", cells[-1]]


def test_the_wandb_logger_builds_its_tables_from_our_results(runs):
    from lm_eval.loggers.wandb_logger import WandbLogger

    content = results_of(runs / "ours")
    # Everything but the upload: a logger without its run.
    logger = WandbLogger.__new__(WandbLogger)
    logger.post_init(content)
    configs = logger._get_config()
    summary, numbers = logger._sanitize_results_dict()
    assert set(summary) == {"sums/name", "sums/alias"}
    assert all(isinstance(value, int | float) for value in numbers.values())
    rows = samples_of(runs / "ours")
    for row in rows:  # in memory, lm-eval has the arguments as tuples
        row["arguments"] = [tuple(request.values()) for request in as_requests(row)]
    frame = logger._generate_dataset(rows, configs["task_configs"]["sums"])
    assert list(frame["rougeL"]) == [row["rougeL"] for row in rows]
    assert list(frame["raw_predictions"]) == [row["resps"][0][0] for row in rows]


def as_requests(row: dict) -> list[dict]:
    return [value for key, value in row["arguments"].items() if key.startswith("gen_args_")]


def test_the_wandb_logger_logs_a_run_offline(runs, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from lm_eval.loggers.wandb_logger import WandbLogger

    # Not by WANDB_MODE, which wandb reads once in a process.
    logger = WandbLogger({"project": "test", "dir": str(tmp_path), "mode": "offline"})
    logger.post_init(results_of(runs / "ours"))
    logger.log_eval_result()
    logger.run.finish()


def test_what_the_zeno_script_loads_is_there(runs):
    # As lm-eval's scripts/zeno_visualize.py finds and reads files; the package lacks the script.
    from lm_eval.utils import (
        get_file_task_name,
        get_latest_filename,
        get_results_filenames,
        get_sample_results_filenames,
    )

    (folder,) = (runs / "ours").iterdir()
    files = [path.as_posix() for path in folder.iterdir()]
    latest = json.loads(Path(get_latest_filename(get_results_filenames(files))).read_text())
    assert list(latest["configs"]) == ["sums"]
    assert isinstance(latest["config"]["model_args"], dict)
    found = [f for f in get_sample_results_filenames(files) if "samples_" in os.path.basename(f)]
    assert {get_file_task_name(os.path.basename(file)) for file in found} == {"sums"}
    config = latest["configs"]["sums"]
    assert config["output_type"] == "generate_until"
    for line in Path(get_latest_filename(found)).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert isinstance(row["doc_id"], int)
        assert isinstance(row["target"], str)
        assert isinstance(row["arguments"]["gen_args_0"]["arg_0"], str)
        assert isinstance(row["filtered_resps"][0], str)
        means = [m["metric"] for m in config["metric_list"] if m["aggregation"] == "mean"]
        assert means == ["rougeL", "exact_match"]
        assert all(isinstance(row[metric], float) for metric in means)


def test_compare_pairs_theirs_with_ours(runs, capsys):
    assert main(["compare", "--json", str(runs / "theirs"), str(runs / "ours")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {c["metric"] for c in result["comparisons"]} == {"rougeL", "exact_match"}
    assert all(abs(c["difference"]) < 1e-9 for c in result["comparisons"])
    assert result["notes"][0].startswith("lm-eval's results do not record all settings")
    assert not any("different prompts" in note for note in result["notes"])
