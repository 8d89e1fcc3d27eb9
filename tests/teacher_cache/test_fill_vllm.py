"""States from a real vLLM (in an environment of its own, .ci/make_vllm_env) against transformers'.

Legend: N positions of a row, D width.
"""

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
from small_models import small_model
from small_tokenizers import byte_level
from torch import nn

from distillens_plugin.teacher_cache.fill.engine import FillRow
from distillens_plugin.teacher_cache.fill.scratch import Scratch
from distillens_plugin.teacher_cache.fill.server import ServerEngine
from distillens_plugin.teacher_cache.fill.vllm import VllmEngine
from distillens_plugin.teacher_cache.fill.wanted import Wanted
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


def some_rows(num=24, seed=0):
    """Of all lengths: the shortest there is, the longest, one position, odd ones, all of them."""
    draw = torch.Generator().manual_seed(seed)
    rows = [FillRow("shortest", [3, 4], [0])]
    longest = torch.randint(0, VOCAB, (LONGEST,), generator=draw).tolist()
    rows += [FillRow("all", longest, list(range(LONGEST - 1)))]
    # The same beginning: read from vLLM's cache of prompts, if at all.
    rows += [FillRow("again", [*longest[:60], 1, 2, 3], [2, 33, 61])]
    rows += [FillRow("first", longest[::-1], [0])]
    for number in range(num):
        length = int(torch.randint(2, LONGEST + 1, (1,), generator=draw))
        ids = torch.randint(0, VOCAB, (length,), generator=draw).tolist()
        chosen = torch.randint(0, length - 1, (1 + length // 3,), generator=draw)
        rows.append(FillRow(f"row {number}", ids, sorted(set(chosen.tolist()))))
    return rows


def reference(model, row):
    """States [N, D] by layer and log-probabilities [N], by transformers."""
    seen = {}

    def before(_, args, kwargs):
        seen[0] = args[0] if args else kwargs["hidden_states"]

    def after(k):
        def hook(_, __, output):
            seen[k] = output[0] if isinstance(output, tuple) else output

        return hook

    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [block.register_forward_hook(after(k)) for k, block in enumerate(blocks, start=1)]
    with torch.no_grad():
        log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
    for hook in hooks:
        hook.remove()
    following = torch.tensor([row.input_ids[i + 1] for i in row.positions])
    return {k: seen[k][0, row.positions] for k in LAYERS}, log_probs[row.positions, following]


def check_equal(model, engine, rows):
    found = {result.row_id: result for result in engine.states(rows, LAYERS)}
    assert found.keys() == {row.row_id for row in rows}
    for row in rows:
        states, log_probs = reference(model, row)
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


def test_a_killed_fill_takes_its_vllm_along(python, tmp_path, llama):
    _, wanted, _ = llama
    # Begins like a fill, in a process that can be killed.
    script = (
        "import sys; from pathlib import Path\n"
        "from distillens_plugin.teacher_cache.fill.vllm import VllmEngine\n"
        "from distillens_plugin.teacher_cache.fill.wanted import Wanted\n"
        "python, model, cache = sys.argv[1:]\n"
        "wanted = Wanted(Path(model), Path(model), [1], 16)\n"
        "VllmEngine(wanted, {'python': python}, beside=Path(cache))\n"
    )
    fill = subprocess.Popen([sys.executable, "-c", script, python, wanted.model, tmp_path])
    marks = [str(tmp_path).encode(), b"vllm_states.serve"]

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

    wait_until(lambda: children() and "states: by" in (tmp_path / "vllm.log").read_text())
    assert list(tmp_path.glob(".states-*"))
    fill.kill()
    fill.wait()
    wait_until(lambda: not children())
    Scratch(tmp_path).close()
    assert not list(tmp_path.glob(".states-*"))


def wait_until(condition, limit_s=120):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
