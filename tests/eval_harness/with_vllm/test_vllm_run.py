"""`eval-harness run --model vllm` as a user runs it: adapters, odd prompts, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_systems import student

from eval_harness.results.folder import load_results

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]

CPU = "dtype=float32,kv_cache_memory_bytes=67108864,enforce_eager=true"
RANK, ALPHA = 4, 32


def run_args(model: str, arguments: str, benchmark: Path, out: Path, *more: str) -> list[str]:
    return [
        *("run", "--model", model, "--model_args", arguments, "--tasks", "small"),
        *("--include_path", str(benchmark), "--output_path", str(out), *more),
    ]


def rows(out: Path) -> list[dict]:
    (folder,) = {file.parent for file in out.glob("*/answers_small_*.jsonl")}
    return read_answers(folder)


def read_answers(folder: Path) -> list[dict]:
    (file,) = folder.glob("answers_small_*.jsonl")
    found = [json.loads(line) for line in file.read_bytes().split(b"\n")[1:] if line]
    return sorted(found, key=lambda row: row["key"])


def save_adapter(model: Path, adapter: Path, merged: Path) -> None:
    """A peft adapter with random weights, and the model with the same change merged in."""
    generator = torch.Generator().manual_seed(1)
    weights = load_file(model / "model.safetensors")
    changes = {}
    for layer in range(2):
        for name in ("q_proj", "v_proj"):
            module = f"model.layers.{layer}.self_attn.{name}"
            weight = weights[f"{module}.weight"]
            down = torch.randn(RANK, weight.shape[1], generator=generator) * 0.1
            up = torch.randn(weight.shape[0], RANK, generator=generator) * 0.1
            changes[f"base_model.model.{module}.lora_A.weight"] = down
            changes[f"base_model.model.{module}.lora_B.weight"] = up
            weights[f"{module}.weight"] = weight + ALPHA / RANK * up @ down
    adapter.mkdir()
    save_file(changes, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": str(model),
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(model, merged)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})


def test_an_adapter_gives_the_answers_of_the_merged_model(
    harness, small_llama, small_benchmark, tmp_path
):
    save_adapter(small_llama, tmp_path / "adapter", tmp_path / "merged")
    more = ("--protocol", "greedy", "--gen_kwargs", "max_gen_toks=24", "--limit", "24")
    with_adapter = f"pretrained={small_llama},peft={tmp_path / 'adapter'},{CPU}"
    merged = f"pretrained={tmp_path / 'merged'},dtype=float32"
    plain = f"pretrained={small_llama},dtype=float32"
    for model, arguments, name in [
        ("vllm", with_adapter, "a"),
        ("hf", merged, "b"),
        ("hf", plain, "c"),
    ]:
        done = harness(*run_args(model, arguments, small_benchmark, tmp_path / name, *more))
        assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    (task,) = load_results(tmp_path / "a").tasks.values()
    assert "adapter" in task.fingerprint.model
    assert "vllm" in task.fingerprint.versions


def test_too_long_and_empty_prompts_are_cut_filled_and_counted_as_in_transformers(
    harness, small_llama, small_benchmark, tmp_path
):
    odd = [
        {"id": "empty", "instruction": "", "output": "a"},
        {"id": "long", "instruction": "word " * 2000, "output": "b"},
        {"id": "odd", "instruction": "\u2028 \x00 🙂 \r\n \ud800", "output": "c"},
        {"id": "usual", "instruction": "Say hi.", "output": "hi"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in odd)
    (small_benchmark / "small.jsonl").write_text(text, encoding="utf-8")
    more = ("--protocol", "greedy", "--template", "{instruction}", "--loglikelihood")
    found = []
    for model, arguments in [("vllm", CPU), ("hf", "dtype=float32")]:
        arguments = f"pretrained={small_llama},max_length=64,{arguments}"
        out = tmp_path / model
        done = harness(*run_args(model, arguments, small_benchmark, out, *more))
        assert done.returncode == 0, done.stderr
        assert "1 prompts cut to 32 tokens (template), 1 empty" in done.stderr
        found.append(load_results(out).tasks["small"])
    assert [s.resps for s in found[0].samples] == [s.resps for s in found[1].samples]
    assert found[0].metrics["nll,none"] == pytest.approx(found[1].metrics["nll,none"], rel=1e-5)
    assert max(number for sample in found[0].samples for number in sample.num_tokens or []) <= 32


def test_a_killed_run_goes_on_and_equals_an_uninterrupted_one(
    harness, small_llama, small_benchmark, tmp_path
):
    # Few requests in flight, so that answers trickle in.
    arguments = f"pretrained={small_llama},{CPU},max_num_seqs=4"
    more = ("--seed", "10,20,30", "--gen_kwargs", "max_gen_toks=100,no_repeat_ngram_size=6")
    assert (
        harness(*run_args("vllm", arguments, small_benchmark, tmp_path / "whole", *more)).returncode
        == 0
    )
    out = tmp_path / "out"
    args = run_args("vllm", arguments, small_benchmark, out, *more)
    process = subprocess.Popen([sys.executable, "-m", "eval_harness", *args], cwd=tmp_path)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        files = list(out.glob("*/answers_small_*.jsonl"))
        if files and files[0].read_bytes().count(b"\n") > 12:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = len(rows(out))
    assert 8 < written < 48 * 3, "killed too late: it had finished"
    done = harness(*args)
    assert done.returncode == 0, done.stderr
    assert f"{written} answers are there already" in done.stderr
    assert rows(out) == rows(tmp_path / "whole")


def test_data_parallel_engines_give_the_answers_of_one(
    harness, small_llama, small_benchmark, tmp_path
):
    """Also after each of them has taken another model's weights."""
    other = student(small_llama, tmp_path / "other", 1)
    more = ("--seed", "10,20", "--gen_kwargs", "max_gen_toks=24", "--limit", "16")
    more += ("--systems", str(small_llama), str(other))
    for name, extra in [("one", ""), ("two", ",data_parallel_size=2")]:
        done = harness(
            *run_args("vllm", CPU + extra, small_benchmark, tmp_path / name, *more),
            VLLM_ENABLE_V1_MULTIPROCESSING="1",
        )
        assert done.returncode == 0, done.stderr
        assert "starting another one" not in done.stderr
    folders = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(folders) == 2
    for folder in folders:
        one, two = (read_answers(tmp_path / name / folder) for name in ("one", "two"))
        assert one == two
