"""`eval-harness run` as a user runs it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval_harness.results.folder import load_results

SHORT = ("--gen_kwargs", "max_gen_toks=12", "--seed", "10,20", "--device", "cpu")


def run_args(model: Path, benchmark: Path, out: Path, *more: str) -> list[str]:
    return [
        "run",
        *("--model", "hf", "--model_args", f"pretrained={model},dtype=float32"),
        *("--tasks", "small", "--include_path", str(benchmark), "--output_path", str(out)),
        *SHORT,
        *more,
    ]


def stored(out: Path, prefix: str = "answers") -> list[bytes]:
    (file,) = out.glob(f"*/{prefix}_small_*.jsonl")
    return sorted(file.read_bytes().split(b"\n"))


def test_a_run_writes_results_and_samples_in_lm_eval_s_layout(
    harness, small_gpt2, small_benchmark, tmp_path
):
    out = tmp_path / "out"
    done = harness(*run_args(small_gpt2, small_benchmark, out, "--limit", "6", "--loglikelihood"))
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["task", "rows", "metric", "value", "stderr"]
    assert [line.split()[:3] for line in lines] == [
        ["small", "6", "rougeL"],
        ["small", "6", "exact_match"],
        ["small", "6", "nll"],
    ]
    results = load_results(out)
    task = results.tasks["small"]
    assert (task.num_original, task.num_effective, len(task.samples)) == (48, 6, 6)
    sample = task.samples[0]
    assert sample.seeds == [10, 20]
    assert all(0 <= number <= 12 for number in sample.num_tokens or [-1])
    assert sample.arguments["gen_args_0"]["arg_0"].endswith("### Response:\n")
    assert task.metrics["nll,none"] > 0
    assert task.metrics["perplexity,none"] > 1
    assert sample.extra["reference_nll"][0] > 0
    fingerprint = task.fingerprint
    assert fingerprint.protocol["max_new_tokens"] == 12
    assert fingerprint.model["dtype"] == "float32"
    assert {"backend", "torch", "transformers", "scorer"} <= set(fingerprint.versions)
    content = json.loads(Path(task.source).read_text(encoding="utf-8"))
    assert {"results", "configs", "versions", "n-samples", "config", "date"} <= set(content)
    assert content["config"]["model"] == "hf"


def test_more_seeds_and_rows_go_on_from_fewer(harness, small_gpt2, small_benchmark, tmp_path):
    out = tmp_path / "out"
    first = harness(*run_args(small_gpt2, small_benchmark, out, "--limit", "4"))
    before = set(stored(out))
    more = harness(*run_args(small_gpt2, small_benchmark, out, "--limit", "6"))
    again = harness(*run_args(small_gpt2, small_benchmark, out, "--limit", "6", "--predict_only"))
    assert (first.returncode, more.returncode, again.returncode) == (0, 0, 0)
    assert "8 answers are there already" in more.stderr
    assert before < set(stored(out))
    assert len(stored(out)) == 1 + 1 + 6 * 2
    # Nothing to generate: no weights are loaded, and no scores were asked for.
    assert "tokens/s" not in again.stderr
    assert again.stdout.startswith("no scores: the answers are kept; ")
    assert load_results(out).tasks["small"].samples[0].scores == {}


def test_stops_cut_what_is_scored_and_the_answers_are_kept_whole(
    harness, small_gpt2, small_benchmark, tmp_path
):
    out = tmp_path / "out"
    args = run_args(small_gpt2, small_benchmark, out, "--limit", "2")
    assert harness(*args, "--gen_kwargs", "max_gen_toks=12,until=[]").returncode == 0
    whole = load_results(out).tasks["small"]
    assert whole.fingerprint.protocol["until"] == []
    stop = whole.samples[0].filtered_resps[0][5:8]
    done = harness(*args, "--gen_kwargs", f"max_gen_toks=12,until={json.dumps([stop])}")
    assert done.returncode == 0, done.stderr
    # What is cut is no other answer: nothing is generated again.
    assert "4 answers are there already" in done.stderr
    cut = load_results(out).tasks["small"]
    assert cut.fingerprint.protocol["until"] == [stop]
    assert cut.samples[0].resps == whole.samples[0].resps
    assert cut.samples[0].filtered_resps[0] == whole.samples[0].filtered_resps[0].split(stop)[0]


@pytest.mark.parametrize("sampling", ["sampled", "greedy"])
def test_a_killed_run_goes_on_and_equals_an_uninterrupted_one(
    harness, small_llama, small_benchmark, tmp_path, sampling
):
    more = ["--batch_size", "2", "--limit", "24", "--gen_kwargs", "max_gen_toks=40"]
    if sampling == "greedy":
        more += ["--protocol", "greedy", "--seed", "10"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert harness(*run_args(small_llama, small_benchmark, whole, *more)).returncode == 0
    args = run_args(small_llama, small_benchmark, out, *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "eval_harness", *args], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        files = list(out.glob("*/answers_small_*.jsonl"))
        if files and files[0].read_bytes().count(b"\n") > 6:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (file,) = out.glob("*/answers_small_*.jsonl")
    written = file.read_bytes().count(b"\n")
    assert 6 < written < len(stored(whole)) - 1, "killed too late: it had finished"
    # As if the kill had come in the middle of a write.
    file.write_bytes(file.read_bytes() + b'{"key": ["gsm8k-te')
    done = harness(*args)
    assert done.returncode == 0, done.stderr
    assert f"{written - 1} answers are there already" in done.stderr
    assert stored(out) == stored(whole)
    samples = [load_results(folder).tasks["small"].samples for folder in (out, whole)]
    assert [s.to_json() for s in samples[0]] == [s.to_json() for s in samples[1]]


def test_a_changed_model_does_not_go_on_from_the_old_answers(
    harness, small_gpt2, small_benchmark, tmp_path
):
    model = tmp_path / "model"
    model.mkdir()
    for file in small_gpt2.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "out"
    args = run_args(model, small_benchmark, out, "--limit", "2", "--predict_only")
    assert harness(*args).returncode == 0
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    done = harness(*args)
    assert done.returncode == 0
    assert "there already" not in done.stderr
    assert len(list(out.glob("*/answers_small_*.jsonl"))) == 2


def test_a_second_run_into_the_folder_names_the_first_s_pid(
    harness, small_gpt2, small_benchmark, tmp_path
):
    from eval_harness.results.folder import model_folder_name
    from eval_harness.shared.files.lock import FolderLock

    folder = tmp_path / "out" / model_folder_name(str(small_gpt2))
    folder.mkdir(parents=True)
    with FolderLock(folder):
        done = harness(*run_args(small_gpt2, small_benchmark, tmp_path / "out"))
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} on " in done.stderr


def test_the_minillm_protocol_runs_in_half_precision_with_the_ngram_rule(
    harness, small_gpt2, small_benchmark, tmp_path
):
    out = tmp_path / "out"
    args = run_args(small_gpt2, small_benchmark, out, "--protocol", "minillm", "--limit", "3")
    # Without a dtype, which would replace the protocol's.
    args[args.index("--model_args") + 1] = f"pretrained={small_gpt2}"
    done = harness(*args)
    assert done.returncode == 0, done.stderr
    fingerprint = load_results(out).tasks["small"].fingerprint
    assert fingerprint.model["dtype"] == "float16"
    assert fingerprint.protocol["no_repeat_ngram_size"] == 6
    assert fingerprint.protocol["truncation"] == "reference"


REFUSALS = {
    "limit 0": (["--limit", "0"], "--limit 0: expected a number of rows of at least 1"),
    "limit text": (["--limit", "all"], "--limit all"),
    "unknown task": (["--tasks", "smal"], "did you mean 'small'"),
    "unknown model": (["--model", "vlm"], "did you mean 'vllm'"),
    "unknown protocol": (["--protocol", "minilm"], "did you mean 'minillm'"),
    "unknown argument": (["--model_args", "pretrained=x,dtyp=a"], "did you mean 'dtype'"),
    "missing model": (["--model_args", "pretrained=./none"], "./none: no such folder, expected"),
    "seed": (["--seed", "1,x"], "--seed 1,x: expected integers separated by commas"),
    "batch size": (["--batch_size", "x"], "--batch_size x: expected an integer or auto"),
    "template": (["--template", "alpacca"], "did you mean 'alpaca'"),
    "two templates": (["--template", "qwen", "--apply_chat_template"], "give only one of them"),
    "keeps nothing": (["--predict_only", "--no-log_samples"], "would keep nothing"),
    "unwritable": (["--output_path", "/proc/out"], "/proc/out: cannot be written"),
    "argument syntax": (["--max_prompt_tokens", "x"], "invalid int value: 'x'"),
    "broken rows": (["--data", "small=broken.jsonl"], "broken.jsonl:2:"),
    "empty rows": (["--data", "small=empty.jsonl"], "empty.jsonl: holds no rows"),
    "no references": (["--data", "small=refless.jsonl"], "output is an empty list"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mistakes_end_with_one_line_and_2_before_weights_are_loaded(
    harness, small_benchmark, tmp_path, name
):
    row = {"instruction": "a", "output": "b"}
    (tmp_path / "broken.jsonl").write_text(json.dumps(row) + "\n{\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "refless.jsonl").write_text(json.dumps({**row, "output": []}))
    more, message = REFUSALS[name]
    done = harness(*run_args(Path("missing"), small_benchmark, tmp_path / "out", *more))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_run_without_a_model_says_what_is_missing(harness, small_benchmark, tmp_path):
    args = run_args(Path("missing"), small_benchmark, tmp_path / "out")
    args[args.index("--model_args") + 1] = "dtype=float32"
    done = harness(*args)
    assert done.returncode == 2
    assert "no pretrained=..." in done.stderr


def test_debug_adds_the_traceback(harness):
    for args in (["--debug", "run"], ["run", "--debug"]):
        done = harness(*args, "--tasks", "nothing", "--output_path", "out")
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_vllm_that_is_not_installed_ends_with_the_install_line(harness, small_benchmark, tmp_path):
    # An empty package in front hides a vLLM that may be installed here.
    done = harness(
        *run_args(Path("missing"), small_benchmark, tmp_path / "out", "--model", "vllm"),
        PYTHONPATH=str(stub_vllm(tmp_path, "raise ImportError('no vllm here')")),
    )
    assert done.returncode == 2
    assert 'pip install -e ".[vllm]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_vllm_that_imports_but_has_no_device_is_not_usable(harness, small_benchmark, tmp_path):
    text = "class _Nothing:\n    device_type = ''\n\n\ncurrent_platform = _Nothing()\n"
    done = harness(
        *run_args(Path("missing"), small_benchmark, tmp_path / "out", "--model", "vllm"),
        PYTHONPATH=str(stub_vllm(tmp_path, text)),
    )
    assert done.returncode == 2
    assert "finds no device" in done.stderr
    assert 'pip install -e ".[vllm]"' in done.stderr


def stub_vllm(tmp_path: Path, platforms: str) -> Path:
    """A folder with a package `vllm` whose `platforms` is the given text."""
    package = tmp_path / "stub" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "platforms.py").write_text(platforms)
    return package.parent


def test_ls_lists_benchmarks_and_protocols(harness, small_benchmark):
    done = harness("ls", "--include_path", small_benchmark)
    assert done.returncode == 0
    for name in ("dolly", "self_inst", "vicuna", "sinst", "uinst", "gsm8k", "small", "minillm"):
        assert f"\n  {name} " in done.stdout


def test_validate_reads_every_row(harness, small_benchmark, tmp_path):
    done = harness("validate", "--tasks", "small,gsm8k", "--include_path", small_benchmark)
    assert done.returncode == 0
    assert "small: 48 rows" in done.stdout
    assert "gsm8k: 1319 rows" in done.stdout
    (small_benchmark / "small.jsonl").write_text('{"instruction": "a", "output": "b"}\n[]\n')
    # Both of the flags count.
    flags = ("--tasks", "small", "--tasks", "gsm8k")
    done = harness("validate", *flags, "--include_path", small_benchmark)
    assert done.returncode == 2
    assert "small.jsonl:2:1:" in done.stderr
