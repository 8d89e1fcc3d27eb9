"""What cannot fill a cache is refused before anything starts, in one line."""

import json
import sys

import pytest
import torch
from cached_run import cached_recipe
from fake_server import MODELS, SCORE, FakeServer, answering, running
from run_process import change
from small_models import small_model

from distillens_plugin.cli import main
from distillens_plugin.teacher_cache.fill.engine import FillRow
from distillens_plugin.teacher_cache.fill.scratch import Scratch
from distillens_plugin.teacher_cache.fill.server import ServerEngine
from distillens_plugin.teacher_cache.fill.vllm import VllmEngine, vllm_flags
from distillens_plugin.teacher_cache.fill.vllm_process import (
    VllmProcess,
    absolute_python,
    check_python,
)
from distillens_plugin.teacher_cache.fill.wanted import Wanted
from distillens_plugin.teacher_cache.shards import shard_paths
from distillens_plugin.vllm_states.exchange import digest, write_states
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.lock import FolderLock


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    small_model("llama").save_pretrained(folder)
    return folder


def wanted(teacher, layers=(1, 3), longest=16):
    return Wanted(teacher, teacher, list(layers), longest)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"pipeline_parallel_size": 2}, "use tensor_parallel_size"),
        ({"speculative_config": "{}"}, "states come through it"),
        ({"kv-transfer-config": "{}"}, "states come through it"),
        ({"enable_lora": True}, "merge the adapter"),
        ({"pretrained": "x"}, "models.teacher_model"),
        ({"trust_remote_code": True}, "--model hf"),
        ({"max_model_len": 15}, "expected at least 16"),
    ],
)
def test_arguments_that_are_set_here_are_refused(teacher, tmp_path, arguments, expected):
    with pytest.raises(DistillensError, match=expected) as refused:
        VllmEngine(wanted(teacher), arguments, beside=tmp_path / "cache")
    assert next(iter(arguments)) in str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_arguments_become_flags(teacher):
    given = {"enforce_eager": True, "enable_chunked_prefill": False, "quantization": "fp8"}
    flags = vllm_flags({**given, "hf_overrides": {"a": 1}, "revision": None}, wanted(teacher))
    text = " ".join(flags)
    assert "--enforce-eager --no-enable-chunked-prefill --quantization fp8" in text
    assert flags[-2:] == ["--hf-overrides", '{"a": 1}']
    assert "revision" not in text
    # A float32 checkpoint stays one: "auto" would not leave it so.
    assert "--max-model-len 16 --dtype float32" in text


def test_a_layer_that_is_not_there_and_an_adapter_are_refused(teacher, tmp_path):
    with pytest.raises(DistillensError, match=r"found layer 4, expected 0 \(embeddings\) to 3"):
        VllmEngine(wanted(teacher, layers=(1, 4)), {}, beside=tmp_path / "cache")
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    (adapted / "config.json").write_text("{}", encoding="utf-8")
    (adapted / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DistillensError, match="merge it"):
        VllmEngine(wanted(adapted), {"dtype": "float32"}, beside=tmp_path / "cache")


@pytest.mark.parametrize(
    ("prints", "expected"),
    [
        ("['vllm', 'distillens_plugin']", "has no vLLM; pip install"),
        ("['distillens_plugin']", "has vLLM, but not this package"),
    ],
)
def test_an_interpreter_without_vllm_is_refused(tmp_path, prints, expected):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{prints}"\n', encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(DistillensError, match=expected):
        check_python(str(python))
    with pytest.raises(DistillensError, match="cannot be run"):
        check_python(str(tmp_path / "none"))


def test_an_interpreter_may_be_named_from_here_or_from_home(teacher, tmp_path, monkeypatch):
    python = tmp_path / "venv" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho \"['vllm']\"\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed in ("venv/python", "./venv/python", "~/venv/python", str(python)):
        # It has been run: it says what it lacks.
        with pytest.raises(DistillensError, match=f"{python}: has no vLLM"):
            VllmEngine(wanted(teacher), {"python": typed}, beside=tmp_path / "cache")
    # A link is not followed: the interpreter of a virtual environment is one.
    (tmp_path / "link").symlink_to(sys.executable)
    assert absolute_python("./link") == str(tmp_path / "link")
    assert absolute_python("python3") == "python3"


def test_a_child_that_ends_says_why(tmp_path):
    def ended(script):
        process = VllmProcess([sys.executable, "-c", script], log=tmp_path / "log")
        try:
            process.wait_until_ready("http://127.0.0.1:9/health")
        finally:
            process.close()

    with pytest.raises(DistillensError, match="--model vllm: no such layer") as refused:
        ended("print('error: no such layer'); raise SystemExit(2)")
    assert refused.value.exit_code == 2
    with pytest.raises(DistillensError, match="unrecognized arguments: --quantisation"):
        ended("print('vllm: error: unrecognized arguments: --quantisation'); raise SystemExit(2)")
    with pytest.raises(RunFailure, match=r"exit code 1\): ValueError: no memory; its log is"):
        ended("print('errors like `OSError: [Errno 24]`'); raise ValueError('no memory')")
    with pytest.raises(RunFailure, match=r"SIGKILL.: it printed nothing"):
        ended("import os; os.kill(os.getpid(), 9)")


def test_what_killed_runs_left_is_removed(tmp_path):
    left = tmp_path / ".states-killed"
    left.mkdir()
    (left / "0.safetensors").touch()
    first = Scratch(tmp_path)
    second = Scratch(tmp_path)
    assert not left.exists()
    assert first.folder.is_dir()  # its run goes on
    assert first.log == tmp_path / "vllm.log"
    assert second.log != first.log  # two vLLMs would replace each other's lines
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_start_takes_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    acquire, taken = FolderLock.acquire, []

    def just_after_another(lock, **settings):
        # At this moment the folder is there and not locked yet.
        if not taken:
            taken.append(FolderLock(lock._path.parent))
            acquire(taken[0])
        acquire(lock, **settings)

    monkeypatch.setattr(FolderLock, "acquire", just_after_another)
    scratch = Scratch(tmp_path)
    assert scratch.folder.is_dir()
    assert scratch.folder != taken[0]._path.parent
    scratch.close()
    taken[0].close()


def facts(teacher, folder, **changes):
    found = {"engine": "vllm", "version": "0.32.0", "dtype": "float32", "quantisation": "none"}
    found |= {
        "kv_cache_dtype": "auto",
        "hf_overrides": "{}",
        "model": digest(teacher),
        "layers": [1, 3],
    }
    return {**found, "folder": str(folder), "format": 1, **changes}


def states_answer(given):
    choice = {"prompt_logprobs": [None], "logprobs": {"token_logprobs": [-1.0]}, "token_ids": [0]}
    return {"choices": [choice], "kv_transfer_params": given}


def served(teacher, folder, given, *, writes=True):
    """A server that answers with these kv_transfer_params, and perhaps writes states."""

    def answer(handler, _):
        body = fake.calls[-1][1]
        if writes:
            write_states(folder, body["kv_transfer_params"]["name"], torch.zeros(1, 2, 32))
        answering(states_answer(given))(handler, None)

    fake = FakeServer()
    fake.faults = {SCORE: answer}
    with running(fake):
        return ServerEngine(wanted(teacher), {"base_url": fake.url, "folder": str(folder)})


def test_a_server_that_gives_these_states_is_taken(teacher, tmp_path):
    engine = served(teacher, tmp_path, {"facts": facts(teacher, tmp_path)})
    assert engine.identity["engine"] == "vllm"
    assert engine.identity["version"] == "0.32.0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"model": "0" * 64}])
def test_no_row_is_taken_from_another_engine_that_answers_meanwhile(teacher, tmp_path, change):
    """It is started anew for one row, and is what it was for all others."""

    def right(call, body):
        if call == MODELS:
            return {"data": [{"max_model_len": 16}]}
        write_states(tmp_path, body["kv_transfer_params"]["name"], torch.zeros(1, 2, 32))
        changed = change if body["prompt"] == [2] else {}
        return states_answer({"facts": facts(teacher, tmp_path, **changed)})

    fake = FakeServer()
    fake.right = right
    taken = []
    with running(fake):
        engine = ServerEngine(wanted(teacher), {"base_url": fake.url, "folder": str(tmp_path)})
        rows = [FillRow(str(number), [number, 0], [0]) for number in range(5)]
        key, value = next(iter(change.items()))
        with pytest.raises(RunFailure, match=f"become another engine .*: {key}: found {value}"):
            taken.extend(result.row_id for result in engine.states(rows, [1, 3]))
    assert "2" not in taken


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, "found a server without our connector"),
        ({"model": "0" * 64}, "serves another model"),
        ({"layers": [1, 2]}, r"found layers \[1, 2\], expected \[1, 3\]"),
        ({"format": 9}, "found format 9, expected 1"),
    ],
)
def test_any_other_server_is_refused_with_the_command(teacher, tmp_path, change, expected):
    given = None if change is None else {"facts": facts(teacher, tmp_path, **change)}
    with pytest.raises(DistillensError, match=expected) as refused:
        served(teacher, tmp_path, given)
    text = str(refused.value)
    assert f"distillens_plugin.vllm_states.serve {teacher} --states-folder {tmp_path}" in text
    assert "--states-layers 1,3" in text
    assert "\n" not in text


def test_a_folder_that_is_not_shared_is_refused(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("distillens_plugin.teacher_cache.fill.server.PROBE_TIMEOUT_S", 0.3)
    given = {"facts": facts(teacher, "/elsewhere")}
    with pytest.raises(DistillensError, match=f"its folder /elsewhere is not {tmp_path}"):
        served(teacher, tmp_path, given, writes=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "expected --model_args base_url="),
        ({"base_url": "http://127.0.0.1:9"}, "expected --model_args base_url="),
        ({"base_url": "http://127.0.0.1:9", "folder": "/no/such/folder"}, "found no folder"),
        ({"base_url": "http://127.0.0.1:9", "folder": "/", "dtype": "x"}, "dtype: unknown"),
        ({"base_url": "http://127.0.0.1:9", "folder": "/"}, "start one with: python -m"),
        ({"base_url": "localhost:8000", "folder": "/"}, "localhost:8000: expected an address"),
        (
            {"base_url": "http://127.0.0.1:9", "folder": "/", "timeout_s": "soon"},
            "timeout_s=soon: expected a number of seconds above 0",
        ),
    ],
)
def test_arguments_of_a_server_are_checked(teacher, arguments, expected):
    with pytest.raises(DistillensError, match=expected):
        ServerEngine(wanted(teacher), arguments)


def test_a_server_whose_context_is_short_is_refused(teacher, tmp_path):
    with running(FakeServer()) as fake:
        fake.faults = {MODELS: answering({"data": [{"max_model_len": 15}]})}
        with pytest.raises(DistillensError, match="found max_model_len 15, expected at least 16"):
            ServerEngine(wanted(teacher), {"base_url": fake.url, "folder": str(tmp_path)})
    assert [call for call, _ in fake.calls] == [MODELS]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_rows_beyond_a_models_positions_are_refused_as_a_run_does(tmp_path, capsys, role):
    path = cached_recipe(tmp_path)
    rows = [{"id": str(i), "instruction": "Add.", "output": "Two and two. " * 200} for i in "ab"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    change(path, "datasets.train.path", str(tmp_path / "rows.jsonl"))
    change(path, "datasets.train.max_length", 400)
    if role == "teacher":
        change(path, "models.student_model.init.config.n_positions", 512)
    assert main(["cache", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"datasets.train: the longest row has 400 tokens, but the {role} has 256" in error
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--part", "9/8"], "--part 9/8: expected K/N"),
        (["--model_args", "dtype=float3"], "--model_args dtype=float3: expected one of"),
        (["--model_args", "colour=red"], "--model_args colour: unknown for --model hf"),
        (["--model_args", "device=cuda:77"], "--model_args device=cuda:77: cannot be used"),
        (["--model", "vllm", "-b", "4"], "--batch_size: is for --model hf"),
        (["--model", "server"], "--model server: expected --model_args base_url="),
        (["--set", "teacher_cache=null"], "found no teacher_cache; add teacher_cache"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, expected):
    path = cached_recipe(tmp_path)
    assert main(["cache", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert not shard_paths(tmp_path / "cache")
