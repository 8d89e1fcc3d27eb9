"""`--model server` and a real `vllm serve`: equal answers; either is killed, nothing is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from vllm_server import VllmServer

from eval_harness.api import evaluate
from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.server import ServerBackend
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.errors import DistillensError
from eval_harness.generation.engine import choose_engine
from eval_harness.shared.model_folder.identity import read_model

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]

MAX_LENGTH = 256
NUM_NEW = 24


@pytest.fixture(scope="module")
def server(usable_vllm, loud_llama, tmp_path_factory):
    """The small Llama, in a folder whose generation settings must not reach an answer."""
    log = tmp_path_factory.mktemp("server") / "log"
    flags = ("--served-model-name", "llama", "--max-model-len", str(MAX_LENGTH))
    served = VllmServer(sys.executable, loud_llama, log, *flags)
    served.start()
    yield served
    served.kill()


@pytest.fixture(scope="module")
def prompts_only(small_llama, tmp_path_factory):
    """What a client needs of the model: its configuration and its tokenizer."""
    folder = tmp_path_factory.mktemp("client") / "model"
    shutil.copytree(small_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def backend(server, prompts_only):
    arguments = {"base_url": f"{server.root}/v1", "pretrained": str(prompts_only)}
    engine = choose_engine("server", {**arguments, "num_concurrent": 8, "max_length": MAX_LENGTH})
    assert engine.facts.name == "llama"
    found = engine.load(max_length=MAX_LENGTH, no_repeat_ngrams=False)
    assert isinstance(found, ServerBackend)
    return found


def requests():
    prompts = [tuple(range(5 + place, 8 + 2 * place)) for place in range(24)]
    return [Request(prompt, seed=2**40 + place) for place, prompt in enumerate(prompts * 2)]


def answers(backend, **changes):
    settings = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "no_repeat_ngram_size": 0, **changes}
    return sorted(
        backend.generate(requests(), Sampling(NUM_NEW, **settings)), key=lambda a: a.index
    )


def test_greedy_answers_are_those_of_vllm_and_of_transformers(backend, vllm_backend, small_llama):
    found = answers(backend)
    assert {answer.finish_reason for answer in found} == {"stop", "length"}
    assert found == answers(vllm_backend)
    transformers = TransformersBackend(read_model(str(small_llama)), dtype="float32")
    assert found == answers(transformers)


@pytest.mark.parametrize("changes", [{}, {"top_p": 0.9, "top_k": 50}], ids=["plain", "nucleus"])
def test_sampled_answers_are_those_of_vllm_with_the_same_seeds(backend, vllm_backend, changes):
    found = answers(backend, temperature=0.8, **changes)
    assert found == answers(vllm_backend, temperature=0.8, **changes)
    assert len({tuple(answer.token_ids) for answer in found[:24]}) > 12


def test_end_tokens_of_a_chat_and_log_likelihoods(backend, vllm_backend):
    (ended,) = {answer.token_ids[0] for answer in answers(backend) if answer.index == 20}
    for one in (backend, vllm_backend):
        cut = answers(one, stop_token_ids=(ended,))[20]
        assert (cut.token_ids, cut.finish_reason) == ([], "stop")
    backend.check_log_likelihoods()
    asked = [
        Continuation(r.prompt_ids, tuple(range(40, 40 + place + 1)))
        for place, r in enumerate(requests()[:12])
    ]
    found = {result.index: result.total for result in backend.log_likelihoods(asked)}
    expected = {result.index: result.total for result in vllm_backend.log_likelihoods(asked)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_server_that_cannot_do_what_is_asked_is_refused_first(backend, server, prompts_only):
    arguments = {"base_url": server.root, "pretrained": str(prompts_only)}
    with pytest.raises(DistillensError, match=r"HTTP 404.*usually ends in /v1"):
        choose_engine("server", arguments)
    arguments["base_url"] += "/v1/completions"  # as lm-eval's users write it
    with pytest.raises(DistillensError, match="it has no model tiger, but llama"):
        choose_engine("server", {**arguments, "model": "tiger"})
    engine = choose_engine("server", arguments)
    with pytest.raises(DistillensError, match=r"takes at most 256 tokens, but .* up to 257"):
        engine.load(max_length=MAX_LENGTH + 1, no_repeat_ngrams=False)
    with pytest.raises(DistillensError, match="no_repeat_ngram_size: a server does not have"):
        engine.load(max_length=MAX_LENGTH, no_repeat_ngrams=True)


def rows(out):
    (file,) = out.glob("*/answers_small_*.jsonl")
    found = [json.loads(line) for line in file.read_bytes().split(b"\n")[1:] if line]
    return sorted(found, key=lambda row: row["key"])


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it has finished too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_server_and_then_the_run_are_killed_and_nothing_is_lost(
    server, prompts_only, small_benchmark, tmp_path
):
    arguments = {"base_url": f"{server.root}/v1", "max_length": MAX_LENGTH}
    shared = {"include_path": small_benchmark, "seeds": [10, 20, 30]}
    shared["gen_kwargs"] = {"max_gen_toks": 100}
    shared |= {"backend": "server", "loglikelihood": True, "max_prompt_tokens": 128}
    whole = evaluate(
        prompts_only, "small", output_path=tmp_path / "whole", model_args=arguments, **shared
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "eval_harness", "--model", "server", "--tasks", "small"]
    command += ["--include_path", str(small_benchmark), "--output_path", str(out)]
    command += ["--seed", "10,20,30", "--gen_kwargs", "max_gen_toks=100", "--loglikelihood"]
    command += ["--max_prompt_tokens", "128", "--model_args", f"pretrained={prompts_only}"]
    # Few requests at once, so that answers trickle in.
    command += [f"base_url={server.root}/v1", f"max_length={MAX_LENGTH}", "num_concurrent=2"]
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=file)

    def written():
        files = list(out.glob("*/answers_small_*.jsonl"))
        return files[0].read_bytes().count(b"\n") - 1 if files else 0

    wait_until(lambda: written() >= 8, process)
    server.kill()
    wait_until(lambda: "waiting for it, up to 300 s" in errors.read_text(), process)
    before = written()
    server.start()
    wait_until(lambda: written() >= before + 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = rows(out)
    assert 12 <= len(kept) < 48 * 3
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert f"{len(kept)} answers are there already" in ended.stderr
    assert "answers come as token ids" in ended.stderr
    assert "WARNING" not in ended.stderr
    assert rows(out) == rows(tmp_path / "whole")
    assert all(row in rows(out) for row in kept)
    (fingerprint,) = [task.fingerprint for task in whole.tasks.values()]
    told = fingerprint.model["server"]
    assert (told["id"], told["engine"]) == ("llama", "vllm")
    assert told["version"]
    assert server.root not in json.dumps(fingerprint.model)
