"""`--model server` on loopback: what is sent, what is understood, and what is waited for."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from fake_completions import NAME, VERSION, FakeCompletions
from fake_server import MODELS, SAMPLE, SCORE, reset, running, send, status

from eval_harness.api import evaluate
from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.engine import choose_engine
from eval_harness.results.folder import load_results

REQUESTS = [Request((5, 6, 7 + place), seed=10 + 2 * place) for place in range(12)]
SAMPLED = Sampling(8, temperature=1.0, top_p=1.0, top_k=0, no_repeat_ngram_size=0)
GREEDY = Sampling(8, temperature=0.0, top_p=1.0, top_k=0, no_repeat_ngram_size=0)


@pytest.fixture
def fake():
    with running(FakeCompletions()) as server:
        yield server


@pytest.fixture(scope="module")
def folder(small_llama, tmp_path_factory):
    """Configuration and tokenizer, no weights."""
    found = tmp_path_factory.mktemp("client") / "model"
    shutil.copytree(small_llama, found, ignore=shutil.ignore_patterns("*.safetensors"))
    return found


@pytest.fixture
def backend(fake, folder):
    """Makes one: backend(retry_s=...)."""

    def make(max_length=128, **arguments):
        given = {"pretrained": str(folder), "base_url": f"{fake.url}/v1", **arguments}
        return choose_engine("server", given).load(max_length=max_length, no_repeat_ngrams=False)

    return make


def sampled(backend, sampling=SAMPLED, **more):
    found = sorted(backend.generate(REQUESTS, sampling, **more), key=lambda answer: answer.index)
    return [(answer.index, answer.token_ids, answer.finish_reason) for answer in found]


def bodies(fake):
    return [body for call, body in fake.calls if call == SAMPLE]


def test_every_field_that_a_server_could_set_is_sent(fake, backend):
    one = backend()
    fake.calls.clear()
    sampled(one, Sampling(8, 0.7, 0.9, 40, 0, stop_token_ids=(9,)))
    first = min(bodies(fake), key=lambda body: body["prompt"])
    assert first == {
        "model": NAME,
        "prompt": [5, 6, 7],
        "max_tokens": 8,
        "n": 1,
        "stream": False,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "stop_token_ids": [0, 9],
        "ignore_eos": True,
        "skip_special_tokens": True,
        "return_token_ids": True,
        "seed": 10,
    }
    fake.calls.clear()
    fake.entry["owned_by"] = "sglang"
    sampled(backend(), GREEDY)
    greedy = bodies(fake)[-1]
    assert "seed" not in greedy
    # 0 is an error for SGLang, whose ignore_eos also ignores stop_token_ids.
    assert (greedy["top_k"], greedy["ignore_eos"]) == (-1, False)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_answers_are_the_same_in_every_form(fake, backend, engine, capfd):
    fake.entry["owned_by"] = engine
    expected = sampled(backend())
    assert {reason for _, _, reason in expected} == {"stop", "length"}
    fake.form = "logprobs"
    assert sampled(backend()) == expected
    fake.form = "text"
    tokenizer = backend().facts.tokenizer
    fake.decode = tokenizer.decode
    answers = list(backend().generate(REQUESTS, SAMPLED))
    texts = {index: tokenizer.decode(ids) for index, ids, _ in expected}
    assert {answer.index: answer.text for answer in answers} == texts
    assert [(a.index, a.finish_reason) for a in sorted(answers, key=lambda a: a.index)] == [
        (index, reason) for index, _, reason in expected
    ]
    said = capfd.readouterr().err
    for form in ("token ids", "token ids beside their log-probabilities", "text, whose tokens"):
        assert f"answers come as {form}" in said
    assert "WARNING" not in said


def test_requests_are_in_flight_together_and_done_ones_are_not_asked(fake, backend):
    one = backend(num_concurrent=4)
    together, plain = threading.Barrier(4, timeout=30), fake.sample

    def sample(body):
        together.wait()
        return plain(body)

    fake.sample = sample
    found = sampled(one, GREEDY, done=frozenset(range(4)))
    assert [index for index, _, _ in found] == list(range(4, 12))


def test_a_server_that_forgets_seeds_is_noticed(fake, backend, capfd):
    count = iter(range(10_000))
    fake.sample = lambda body: [300 + next(count)] * body["max_tokens"]
    sampled(backend())
    assert "WARNING: one request with one seed got two answers" in capfd.readouterr().err


@pytest.mark.parametrize("scores", ["prompt_logprobs", "echo"])
def test_log_likelihoods(fake, backend, scores):
    fake.scores = scores
    fake.score = lambda ids: [-float(token) for token in ids[1:]]
    one = backend()
    one.check_log_likelihoods()
    asked = [Continuation((5, 6), (7, 8)), Continuation((5,), (9,)), Continuation((1, 2), (3,) * 4)]
    found = {result.index: result.total for result in one.log_likelihoods(asked)}
    assert found == {0: -15.0, 1: -9.0, 2: -12.0}


PASSING = {
    "busy": [status(429, Retry_After="0"), status(503), status(529)],
    "restarted": [reset, status(502), reset],
    "a dying engine": [status(500), status(500)],
}


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass_change_no_answer(fake, backend, name, capfd):
    expected = sampled(backend(), GREEDY)
    one = backend(num_concurrent=1)
    fake.faults = {SAMPLE: [None, None, *PASSING[name]]}
    assert sampled(one, GREEDY) == expected
    assert not fake.faults[SAMPLE]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "waiting" in line]
    assert line.endswith("waiting for it, up to 300 s")


def test_a_server_that_stays_away_ends_the_run(fake, backend):
    one = backend(num_concurrent=2, retry_s=0.5)
    fake.faults = {SAMPLE: [None, None, *[status(503)] * 20]}
    answers = one.generate(REQUESTS, GREEDY)
    kept = [next(answers), next(answers)]
    with pytest.raises(RunFailure, match=r"HTTP 503.*gave up after .* \(retry_s=0\.5\)"):
        kept += list(answers)
    assert len(kept) == 2


def test_a_server_that_comes_back_as_another_ends_the_run(fake, backend):
    one = backend(num_concurrent=1)
    fake.faults = {SAMPLE: [None, reset]}
    fake.entry = {**fake.entry, "root": "/models/other"}
    with pytest.raises(RunFailure, match=r"restarted as .*/models/other.* began with .*/little"):
        list(one.generate(REQUESTS, GREEDY))


def test_what_the_server_says_is_in_the_fingerprint_and_its_address_is_not(fake, folder):
    def identity(**arguments):
        given = {"pretrained": str(folder), "base_url": f"{fake.url}/v1", **arguments}
        return choose_engine("server", given).identity

    first = identity()
    assert first["server"] == {
        "id": NAME,
        "engine": "vllm",
        "version": "0.32.0",
        "root": "/models/little",
    }
    assert first == identity(num_concurrent=3, timeout_s=5, retry_s=1, model=NAME)
    assert fake.url not in json.dumps(first)
    fake.version = "0.33.0"
    assert identity() != first
    fake.faults = {VERSION: status(404)}
    assert "version" not in identity()["server"]
    # As lm-eval's users name them.
    given = {"base_url": f"{fake.url}/v1/completions", "model": NAME, "tokenizer": str(folder)}
    assert choose_engine("server", given).facts.name == NAME


def test_a_run_keeps_its_answers_and_not_the_key(
    fake, folder, small_benchmark, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("SERVER_KEY", "sk-very-secret")
    keys = set()

    def keyed(handler, right):
        keys.add(handler.headers["Authorization"])
        send(handler, right)

    fake.faults = dict.fromkeys((MODELS, VERSION, SAMPLE, SCORE), keyed)
    # A protocol of one answer a row; the first three rows.
    shared = {"backend": "server", "protocol": "greedy", "loglikelihood": True, "limit": 3}
    shared |= {"output_path": tmp_path / "out", "include_path": small_benchmark}
    shared["model_args"] = {"base_url": f"{fake.url}/v1", "api_key_env": "SERVER_KEY"}
    shared["model_args"]["num_concurrent"] = 1
    fake.faults[SAMPLE] = [keyed, keyed, keyed, status(400)]
    with pytest.raises(RunFailure, match=r"/completions: HTTP 400: no luck with 400"):
        evaluate(folder, "small", **shared)
    fake.faults[SAMPLE] = keyed
    results = evaluate(folder, "small", **shared)
    assert "2 answers are there already" in capfd.readouterr().err
    assert keys == {"Bearer sk-very-secret"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.json*"))
    assert b"sk-very-secret" not in written
    assert results.tasks["small"].metrics["nll,none"] == 1.5
    (task,) = load_results(tmp_path / "out").tasks.values()
    assert len(task.samples) == 3
    config = json.loads(Path(task.source).read_text(encoding="utf-8"))["config"]
    assert config["model_dtype"] == "auto"


def test_loglikelihood_is_refused_before_anything_is_generated(
    fake, folder, small_benchmark, tmp_path
):
    fake.scores = None
    with pytest.raises(DistillensError, match="drop --loglikelihood") as refused:
        evaluate(
            folder,
            "small",
            backend="server",
            model_args={"base_url": f"{fake.url}/v1"},
            output_path=tmp_path / "out",
            include_path=small_benchmark,
            loglikelihood=True,
            limit=2,
        )
    assert refused.value.exit_code == 2
    assert max(body["max_tokens"] for call, body in fake.calls if call in (SAMPLE, SCORE)) == 1


def test_other_weights_under_the_same_name_are_noticed(fake, folder, small_benchmark, tmp_path):
    shared = {"backend": "server", "protocol": "greedy", "output_path": tmp_path / "out"}
    shared |= {"include_path": small_benchmark, "model_args": {"base_url": f"{fake.url}/v1"}}
    fake.score = lambda ids: [-token / 100 for token in ids[1:]]
    evaluate(folder, "small", limit=2, **shared)
    # What other batches and devices do.
    fake.score = lambda ids: [-token / 100 - 0.05 for token in ids[1:]]
    evaluate(folder, "small", limit=3, **shared)
    fake.score = lambda ids: [-token / 100 - 0.2 for token in ids[1:]]
    for limit in (3, 4):  # nothing lacks, one answer lacks
        with pytest.raises(DistillensError, match=r"differ by 0\.2 nats .* another output path"):
            evaluate(folder, "small", limit=limit, **shared)


@pytest.mark.parametrize("fault", [reset, status(502)], ids=["away", "behind a gateway"])
def test_a_server_that_comes_back_with_other_weights_ends_the_run(fake, backend, fault):
    one = backend(num_concurrent=1)
    fake.faults = {SAMPLE: [None, fault]}
    fake.score = lambda ids: [-3.0] * (len(ids) - 1)
    with pytest.raises(RunFailure, match=r"restarted with other weights .* differ by 1\.5 nats"):
        list(one.generate(REQUESTS, GREEDY))


def test_the_servers_name_on_the_hub_is_enough_and_no_weights_are_asked_for(
    fake, folder, tmp_path, monkeypatch
):
    # As huggingface_hub keeps a download of these files; the test is offline.
    commit = "0" * 40
    kept = tmp_path / "models--somebody--little"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit, encoding="utf-8")
    shutil.copytree(folder, kept / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    fake.entry["id"] = "somebody/little"
    given = {"base_url": f"{fake.url}/v1", "model": "somebody/little"}
    facts = choose_engine("server", given).facts
    assert facts.name == "somebody/little"
    assert facts.num_ids == 2048
    with pytest.raises(DistillensError, match="no weights"):
        choose_engine("hf", {"pretrained": "somebody/little"})
