"""A server that misbehaves, for real over loopback: one line each that names server and field."""

import time

import pytest
from fake_server import (
    EOS,
    FORGET,
    MODELS,
    RELOAD,
    SAMPLE,
    SCORE,
    FakeServer,
    answering,
    changing,
    dripping,
    reset,
    running,
    silent,
    status,
)

from distillens_plugin.on_policy.vllm_client import VllmClient
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.endpoint import http_json

PROBE = [7, 8, 9, 10]


@pytest.fixture
def fake():
    with running(FakeServer()) as server:
        yield server


def client(fake, timeout_s=0.6):
    return VllmClient(fake.url, timeout_s=timeout_s)


def sample(fake, num=1, **more):
    server = client(fake, **more)
    return server.sample(
        [PROBE] * num,
        seeds=list(range(num)),
        max_new_tokens=[3] * num,
        temperature=1.0,
        top_p=1.0,
        eos_id=EOS,
        num_ids=50,
        vocab_size=64,
    )


def score(fake, **more):
    return client(fake, **more).log_probabilities(PROBE)


def load(fake, **more):
    client(fake, **more).load_weights("/folder")


def check(fake, **more):
    client(fake, **more).check(max_length=200)


def test_a_server_that_behaves_is_taken_at_its_word(fake):
    patient = {"timeout_s": 30.0}  # nothing here is about time, and the machine may be busy
    check(fake, **patient)
    load(fake, **patient)
    assert score(fake, **patient) == [-1.5] * 3
    assert sample(fake, 9, **patient) == [[5, 6, EOS]] * 9


def choice(**values):
    return changing(lambda right: right["choices"][0].update(values))


def entry(place, value):
    def change(right):
        right["choices"][0]["prompt_logprobs"][place] = value

    return changing(change)


def too_long(right):
    right["padding"] = "x" * (http_json.MAX_BYTES + 1)


TRANSPORT = {
    "500": (status(500), "HTTP 500: no luck with 500"),
    "400": (status(400), "HTTP 400: no luck with 400"),
    "404": (status(404), "HTTP 404"),
    "503 for ever": (status(503), "HTTP 503: no luck with 503, 2 tries"),
    "429 for ever": (status(429), "HTTP 429"),
    "502 for ever": (status(502), "HTTP 502"),
    "504 for ever": (status(504), "HTTP 504"),
    "reset for ever": (reset, "the connection failed"),
    "silence": (silent, "no complete answer within 0.6 s (timeout_s)"),
    "dripping body": (dripping(False), "no complete answer within 0.6 s (timeout_s)"),
    "dripping headers": (dripping(True), "no complete answer within 0.6 s (timeout_s)"),
    "301": (status(301, Location="http://elsewhere/"), "a redirect to http://elsewhere/"),
    "307": (status(307, Location="http://elsewhere/"), "HTTP 307, a redirect"),
    "307 nowhere": (status(307), "a redirect to nowhere"),
    "HTML": (answering(b"<html>", Content_Type="text/html"), "found Content-Type text/html"),
    "no type": (answering(b"{}", Content_Type=""), "expected application/json"),
    "gzip": (answering(b"{}", Content_Encoding="gzip"), "found Content-Encoding gzip"),
    "half JSON": (answering(b'{"choices": ['), "the answer is not JSON"),
    "deep JSON": (answering(b"[" * 100_000), "the answer is not JSON"),
    "endless number": (answering(b"9" * 10_000), "the answer is not JSON"),
    "not UTF-8": (answering(b'{"a": "\xff\xfe"}'), "the answer is not JSON"),
    "no HTTP": (lambda handler, _: handler.wfile.write(b"hello\r\n\r\n"), "the connection failed"),
    "truncated": (
        answering(b"{}", Content_Length="99"),
        "the last 97 bytes of the answer are missing",
    ),
    "too long": (changing(too_long), "the answer is longer than 1 MiB"),
    "a number": (answering(7), "the answer: found 7"),
    "null": (answering(None), "choices: found nothing"),
    "a list": (answering([1]), "the answer: found [1]"),
    "nothing": (answering(b""), "choices: found nothing"),
}


@pytest.mark.parametrize("name", TRANSPORT)
def test_a_fault_of_the_connection_ends_in_one_line(fake, monkeypatch, name):
    monkeypatch.setattr(http_json, "MAX_BYTES", 2**20)
    fault, expected = TRANSPORT[name]
    fake.faults[SAMPLE] = fault
    refused(fake, sample, expected, f"{fake.url}/v1/completions")


CONTENT = {
    "choices null": (SAMPLE, changing(lambda r: r.update(choices=None)), "choices: found None"),
    "choices object": (SAMPLE, changing(lambda r: r.update(choices={})), "choices: found {}"),
    "no choice": (SAMPLE, changing(lambda r: r.update(choices=[])), "choices: found []"),
    "two choices": (SAMPLE, changing(lambda r: r.update(choices=r["choices"] * 2)), "choices: "),
    "choice null": (SAMPLE, changing(lambda r: r.update(choices=[None])), "choices[0]: found None"),
    "no ids": (SAMPLE, changing(lambda r: r["choices"][0].clear()), "[0].token_ids: found nothing"),
    "ids null": (SAMPLE, choice(token_ids=None), "choices[0].token_ids: found None"),
    "ids text": (SAMPLE, choice(token_ids="567"), "choices[0].token_ids: found '567'"),
    "ids object": (SAMPLE, choice(token_ids={"0": 5}), "choices[0].token_ids: found {'0': 5}"),
    "id null": (SAMPLE, choice(token_ids=[5, None, EOS]), "token_ids[1]: found None"),
    "id text": (SAMPLE, choice(token_ids=[5, "6", EOS]), "token_ids[1]: found '6'"),
    "id float": (SAMPLE, choice(token_ids=[5, 6.0, EOS]), "token_ids[1]: found 6.0"),
    "id half": (SAMPLE, choice(token_ids=[5, 6.5, EOS]), "token_ids[1]: found 6.5"),
    "id boolean": (SAMPLE, choice(token_ids=[5, True, EOS]), "token_ids[1]: found True"),
    "id negative": (SAMPLE, choice(token_ids=[5, -1, EOS]), "token_ids[1]: found -1"),
    "id of no token": (SAMPLE, choice(token_ids=[5, 50, EOS]), "found the id 50, expected ids bel"),
    "id far beyond": (SAMPLE, choice(token_ids=[5, 2**70]), "token_ids"),
    "ids empty": (SAMPLE, choice(token_ids=[]), "choices[0].token_ids: found []"),
    "too many ids": (SAMPLE, choice(token_ids=[5] * 4), "found 4 ids, expected at most 3"),
    "too few ids": (SAMPLE, choice(token_ids=[5]), "ends after 1 of 3 tokens without an end token"),
    "runs on": (SAMPLE, choice(token_ids=[5, EOS, 6]), "continues after the end token 2"),
    "reason number": (SAMPLE, choice(finish_reason=3), "choices[0].finish_reason: found 3"),
    "scores null": (SCORE, choice(prompt_logprobs=None), "[0].prompt_logprobs: found None"),
    "scores object": (SCORE, choice(prompt_logprobs={}), "[0].prompt_logprobs: found {}"),
    "scores short": (SCORE, choice(prompt_logprobs=[None]), "found 1 entries, expected 4"),
    "score null": (SCORE, entry(2, None), "prompt_logprobs[2]: found no token 9"),
    "score number": (SCORE, entry(2, -1.5), "prompt_logprobs[2]: found -1.5"),
    "score list": (SCORE, entry(2, [-1.5]), "prompt_logprobs[2]: found [-1.5]"),
    "other token": (SCORE, entry(2, {"3": {"logprob": -1.0}}), "[2]: found no token 9"),
    "no logprob": (SCORE, entry(2, {"9": {}}), "prompt_logprobs[2].9.logprob: found nothing"),
    "logprob null": (SCORE, entry(2, {"9": {"logprob": None}}), ".9.logprob: found None"),
    "logprob text": (SCORE, entry(2, {"9": {"logprob": "-1"}}), ".9.logprob: found '-1'"),
    "logprob NaN": (SCORE, entry(2, {"9": {"logprob": float("nan")}}), ".9.logprob: found nan"),
    "logprob -inf": (SCORE, entry(2, {"9": {"logprob": -float("inf")}}), ".9.logprob: found -inf"),
    "logprob above 0": (SCORE, entry(2, {"9": {"logprob": 1.0}}), ".9.logprob: found 1.0"),
    "success text": (FORGET, answering({"success": "yes"}), "success: found 'yes'"),
    "success null": (FORGET, answering({"success": None}), "success: found None"),
    "no success": (FORGET, answering({"success": False}), "cannot clear its prompt cache"),
    "success list": (FORGET, answering([True]), "the answer: found [True]"),
    "results text": (RELOAD, answering({"results": "ok"}), "results: found 'ok'"),
    "reload refused": (RELOAD, status(500), "HTTP 500: no luck"),
}
ACTIONS = {SAMPLE: sample, SCORE: score, FORGET: load, RELOAD: load}


@pytest.mark.parametrize("name", CONTENT)
def test_a_field_that_is_not_what_it_should_be_is_named(fake, name):
    call, fault, expected = CONTENT[name]
    fake.faults[call] = fault
    refused(fake, ACTIONS[call], expected, fake.url)


BEFORE = {
    "no models": (answering({"data": []}), "data: found []"),
    "models null": (answering({"data": None}), "data: found None"),
    "length null": (changing(lambda r: r["data"][0].update(max_model_len=None)), "found None"),
    "length text": (changing(lambda r: r["data"][0].update(max_model_len="9")), "found '9'"),
    "length float": (changing(lambda r: r["data"][0].update(max_model_len=256.0)), "found 256.0"),
    "length zero": (changing(lambda r: r["data"][0].update(max_model_len=0)), "found 0"),
    "no such path": (status(404), "HTTP 404"),
    "another server": (answering(b"<p>", Content_Type="text/html"), "Content-Type text/html"),
    "busy": (status(503), "HTTP 503"),
    "reset": (reset, "the connection failed"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_before_anything_starts_a_wrong_server_is_a_mistake_and_not_waited_for(fake, name):
    fault, expected = BEFORE[name]
    fake.faults[MODELS] = fault
    started_at = time.monotonic()
    with pytest.raises(DistillensError) as caught:
        check(fake, timeout_s=30)
    assert time.monotonic() - started_at < 5
    assert caught.value.exit_code == 2
    one_line(str(caught.value), expected, fake.url)
    assert "vllm serve STUDENT" in str(caught.value)
    assert "--generation-config vllm" in str(caught.value)


def refused(fake, action, expected, address):
    started_at = time.monotonic()
    with pytest.raises(RunFailure) as caught:
        action(fake)
    assert time.monotonic() - started_at < 2.5  # timeout_s is 0.6
    one_line(str(caught.value), expected, address)


def one_line(text, expected, address):
    assert text.startswith(address), text
    assert expected in text
    assert "\n" not in text
    assert len(text) < 1000


PASSING = [status(503), status(429), status(502), status(504), status(503, Retry_After="0"), reset]


@pytest.mark.parametrize("fault", PASSING, ids=["503", "429", "502", "504", "Retry-After", "reset"])
def test_what_passes_by_itself_is_waited_for(fake, fault):
    fake.faults[SAMPLE] = [fault, fault]
    server = client(fake, timeout_s=20)
    found = server.sample(
        [PROBE], seeds=[1], max_new_tokens=[3], temperature=1.0, top_p=1.0, eos_id=EOS
    )
    assert found == [[5, 6, EOS]]
    assert server.num_retries == 2
    bodies = [body for call, body in fake.calls if call == SAMPLE]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]


def test_a_server_that_is_gone_is_waited_for_no_longer_than_timeout_s():
    server = VllmClient("http://127.0.0.1:9", timeout_s=0.6)
    started_at = time.monotonic()
    with pytest.raises(RunFailure, match=r"127\.0\.0\.1:9/v1/completions: .*refused.*, 2 tries"):
        server.log_probabilities(PROBE)
    assert 0.2 < time.monotonic() - started_at < 2


def test_an_answer_that_asks_for_a_day_is_not_waited_for(fake):
    fake.faults[SCORE] = status(503, Retry_After="86400")
    started_at = time.monotonic()
    with pytest.raises(RunFailure, match="HTTP 503"):
        score(fake)
    assert time.monotonic() - started_at < 2


@pytest.mark.parametrize("url", ["http://", "http://host:99999999", "http://[", "http://a b"])
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(DistillensError, match="expected a vLLM server"):
        VllmClient(url, timeout_s=1).check(max_length=8)


def test_a_path_in_front_is_kept(fake):
    fake.right = lambda call, body, right=fake.right: right(call.removeprefix("/front"), body)
    VllmClient(f"{fake.url}/front/", timeout_s=2).check(max_length=200)
    assert [call for call, _ in fake.calls] == [f"/front{MODELS}", f"/front{FORGET}"]


def test_every_setting_that_the_models_file_could_fill_is_sent(fake):
    sample(fake)
    ((_, body),) = fake.calls
    expected = {
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "ignore_eos": True,
        "stop_token_ids": [EOS],
        "n": 1,
    }
    assert body.items() >= expected.items()
    # Ids that the tokenizer or the teacher lacks.
    assert body["logit_bias"] == {str(token): -100.0 for token in range(50, 64)}


def test_a_big_answer_that_is_right_is_taken(fake):
    fake.faults[SCORE] = changing(lambda right: right.update(more="x" * 2**20))
    assert score(fake, timeout_s=20) == [-1.5] * 3
