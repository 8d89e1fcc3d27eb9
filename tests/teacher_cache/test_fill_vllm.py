"""States from a real vLLM (in an environment of its own, .ci/make_vllm_env), as transformers'."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from cached_run import Run, agree, cached_recipe
from run_process import ENVIRONMENT
from small_models import small_model
from small_tokenizers import byte_level
from states_rows import reference, some_rows

from distillens_plugin.cli import main
from distillens_plugin.teacher_cache.fill.scratch import Scratch
from distillens_plugin.teacher_cache.fill.server import ServerEngine
from distillens_plugin.teacher_cache.fill.vllm import VllmEngine
from distillens_plugin.teacher_cache.fill.wanted import Wanted
from distillens_plugin.teacher_cache.shards import read_index, shard_paths
from eval_harness.errors import DistillensError, RunFailure

LONGEST, VOCAB, LAYERS = 96, 320, [0, 1, 3]
# One process fewer, and no compilation: starts are what costs here.
SMALL = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**26,
    "distributed_executor_backend": "uni",
    "max_num_seqs": 8,
}


@pytest.fixture(scope="module")
def python():
    found = os.environ.get("DISTILLENS_VLLM_PYTHON")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("DISTILLENS_VLLM_PYTHON is not set, and CI must have it")
        pytest.skip("needs DISTILLENS_VLLM_PYTHON, the python of .ci/make_vllm_env's environment")
    return found


@pytest.fixture(scope="module")
def start(python, tmp_path_factory):
    """Starts engines over small models and ends them after the module's tests.

    Returns:
        A function of (architecture, **arguments): the model, what is wanted of it, the engine.
    """
    engines = []

    def start(name, **arguments):
        folder = tmp_path_factory.mktemp(name)
        # The CPU build's attention takes heads of 32.
        model = small_model(name, width=128, vocab=VOCAB)
        model.save_pretrained(folder / "teacher")
        byte_level().save_pretrained(folder / "teacher")
        wanted = Wanted(folder / "teacher", folder / "teacher", LAYERS, LONGEST)
        given = {"python": python, **SMALL, **arguments}
        engine = VllmEngine(wanted, given, beside=folder / "cache")
        engines.append(engine)
        return model, wanted, engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def llama(start):
    # Steps of 64 tokens cut the long prompts, whose beginnings are then cached.
    return start("llama", max_num_batched_tokens=64)


@pytest.fixture(scope="module")
def gpt2(start):
    return start("gpt2", max_num_batched_tokens=64)


def check_equal(model, engine, rows):
    found = {result.row_id: result for result in engine.states(rows, LAYERS)}
    assert found.keys() == {row.row_id for row in rows}
    for row in rows:
        states, log_probs = reference(model, row, LAYERS)
        for k in LAYERS:
            assert found[row.row_id].states[k].dtype == torch.float32
            worst = (found[row.row_id].states[k] - states[k]).abs().max()
            assert worst <= 5e-6 * max(1.0, float(states[k].abs().max())), (row.row_id, k)
        torch.testing.assert_close(found[row.row_id].log_probs, log_probs, rtol=0, atol=5e-5)


def ask(engine, **params):
    """A request by somebody else; the answer's kv_transfer_params."""
    body = {"prompt": [5, 6, 7], "max_tokens": 1, "kv_transfer_params": params}
    request = urllib.request.Request(
        f"{engine._client.base_url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["kv_transfer_params"]


def test_extraction_gives_the_states_of_transformers(llama):
    model, _, engine = llama
    assert engine.identity["engine"] == "vllm"
    assert engine.identity["dtype"] == "float32"
    check_equal(model, engine, some_rows())
    # A second time, when vLLM has the prompts in its cache.
    check_equal(model, engine, some_rows())
    assert [p.name for p in engine._scratch.folder.iterdir()] == [".lock"]


def test_whole_prompts_on_two_devices(start, monkeypatch):
    # vLLM would give each process cores of its own, which a small machine lacks.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    two = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": 256}
    model, _, engine = start("qwen2", **two, **whole)
    check_equal(model, engine, some_rows(seed=1))
    engine.close()


def test_hooks_where_the_architecture_refuses(gpt2):
    model, _, engine = gpt2
    assert engine.identity["engine"] == "vllm-hooks"
    check_equal(model, engine, some_rows(seed=2))
    assert "states: by hooks" in engine._process._log.read_text("utf-8")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_bad_position_fails_its_request_alone(name, request):
    model, _, engine = request.getfixturevalue(name)
    answer = ask(engine, name="0" * 16, positions=[3])
    assert answer["error"].endswith("found 3, expected 0 to 2 for a prompt of 3 tokens")
    assert "hexadecimal" in ask(engine, name="../out", positions=[0])["error"]
    check_equal(model, engine, some_rows(num=2))


def server(engine, wanted, **changes):
    """The same vLLM, taken for a server that somebody else has started."""
    arguments = {"base_url": engine._client.base_url, "folder": str(engine._scratch.folder)}
    return ServerEngine(wanted, {**arguments, **changes})


def test_a_server_gives_the_same(llama):
    model, wanted, engine = llama
    other = server(engine, wanted)
    assert other.identity == engine.identity
    check_equal(model, other, some_rows(seed=3))
    other.close()


def test_a_server_of_another_teacher_or_layers_is_refused(llama, tmp_path, monkeypatch):
    model, wanted, engine = llama
    with pytest.raises(DistillensError, match=r"found layers \[0, 1, 3\], expected \[1, 2\]"):
        server(engine, Wanted(wanted.model, wanted.tokenizer, [1, 2], LONGEST))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1  # the smallest difference
    model.save_pretrained(tmp_path / "other")
    with torch.no_grad():
        model.lm_head.weight[0, 0] -= 1
    with pytest.raises(DistillensError, match="serves another model"):
        server(engine, Wanted(tmp_path / "other", wanted.tokenizer, LAYERS, LONGEST))
    monkeypatch.setattr("distillens_plugin.teacher_cache.fill.server.PROBE_TIMEOUT_S", 1.0)
    with pytest.raises(DistillensError, match=r"its folder .* is not") as refused:
        server(engine, wanted, folder=str(tmp_path))
    assert "distillens_plugin.vllm_states.serve" in str(refused.value)


def test_a_dead_engine_ends_the_fill_and_leaves_nothing(gpt2):
    _, _, engine = gpt2
    results = engine.states(some_rows(num=200), LAYERS)
    next(results)
    os.killpg(engine._process._process.pid, signal.SIGKILL)
    with pytest.raises(RunFailure, match=r"vLLM has ended .signal SIGKILL"):
        list(results)
    engine.close()
    assert not engine._scratch.folder.exists()


NUM_ROWS = 48
LENS = "train__criterion__kwargs__sub_terms__lens__criterion__kwargs__layers"
FILL = """
import json, sys
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
fill_cache(load_recipe(sys.argv[1]), FillSettings("vllm", json.loads(sys.argv[2]), chunk_bytes=1))
"""


def recipe_for(folder, wanted):
    """A recipe whose losses read what the engine gives: layers 0, 1 and the last."""
    folder.mkdir()
    rows = [
        {
            "id": f"{i}",
            "instruction": f"Say {i} {1 + i % 5} times.",
            "output": f"{i} " * (1 + i % 5),
        }
        for i in range(NUM_ROWS)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    data = {
        "path": str(folder / "rows.jsonl"),
        "template": "{instruction}\n",
        "max_length": LONGEST,
        "max_prompt_length": 60,
    }
    layers = {"student": [0, 1], "teacher": [0, 1]}
    teacher = {"name_or_path": str(wanted.model)}
    changes = {"models__teacher_model": teacher, LENS: layers}
    return cached_recipe(folder, datasets__train=data, datasets__validation=data, **changes)


def test_a_killed_fill_is_completed_and_trains_as_one_of_transformers(python, tmp_path, llama):
    _, wanted, engine = llama
    path = recipe_for(tmp_path / "vllm", wanted)
    cache = tmp_path / "vllm" / "cache"
    command = [sys.executable, "-c", FILL, path, json.dumps({"python": python, **SMALL})]
    # One that stores row by row.
    fill = subprocess.Popen(command, env=ENVIRONMENT)
    marks = [str(cache).encode(), b"vllm_states.serve"]

    def children():
        found = []
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                content = command.read_bytes()
            except OSError:  # it has just ended
                continue
            if all(mark in content for mark in marks):
                found.append(command.parent.name)
        return found

    wait_until(lambda: fill.poll() is not None or len(shard_paths(cache)) >= 3)
    fill.send_signal(signal.SIGSTOP)
    assert children()
    assert list(cache.glob(".states-*"))
    fill.kill()
    fill.wait()
    wait_until(lambda: not children())
    kept = {shard: shard.read_bytes() for shard in shard_paths(cache)}
    assert 3 <= len(kept) < NUM_ROWS
    Scratch(cache).close()
    assert not list(cache.glob(".states-*"))
    # Another vLLM of the same version is the same engine.
    at = f"base_url={engine._client.base_url},folder={engine._scratch.folder}"
    assert main(["cache", str(path), "--model", "server", "--model_args", at]) == 0
    assert all(shard.read_bytes() == content for shard, content in kept.items())
    rows = [row for shard in shard_paths(cache) for row, _ in read_index(shard).rows]
    assert len(rows) == len(set(rows)) == NUM_ROWS
    plain = recipe_for(tmp_path / "hf", wanted)
    assert main(["cache", str(plain)]) == 0
    agree(losses_on(path), losses_on(plain), rel=2**-7)


def losses_on(path):
    """Loss terms of two epochs that load no more of the teacher than its readout."""
    reading = Run(path, states_only=True)
    steps = reading.epoch(0)[0] + reading.epoch(1)[0]
    reading.close()
    assert reading.num_teacher_calls == 0
    return steps


def wait_until(condition, limit_s=400):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
