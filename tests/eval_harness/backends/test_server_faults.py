"""A server that misbehaves, and arguments that are wrong: one line each."""

import shutil
from dataclasses import replace

import pytest
from fake_completions import FakeCompletions
from fake_server import MODELS, SAMPLE, SCORE, answering, changing, running, silent, status

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.engine import choose_engine

REQUESTS = [Request((5, 6, 8 + 2 * place), seed=0) for place in range(3)]
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


def engine_of(fake, folder, **arguments):
    given = {"pretrained": str(folder), "base_url": f"{fake.url}/v1", "num_concurrent": 1}
    return choose_engine("server", {**given, **arguments})


def load(fake, folder, max_length=128, **arguments):
    engine = engine_of(fake, folder, **arguments)
    return engine.load(max_length=max_length, no_repeat_ngrams=False)


def choice(**changes):
    """The right answer with other fields in its choice; None deletes one."""

    def change(right):
        right["choices"][0] |= changes

    return changing(change)


def without(key):
    return changing(lambda right: right["choices"][0].pop(key) and None)


NINE = list(range(9))
ANSWERS = {
    "more tokens": ("ids", choice(token_ids=NINE), "found 9 tokens, expected at most 8"),
    "an end after more": ("ids", choice(token_ids=[*NINE, 0]), "expected at most 8"),
    "fewer tokens": (
        "ids",
        choice(token_ids=[5] * 3, finish_reason="length"),
        "cut the answer after 3 of 8 tokens",
    ),
    "no end token": (
        "ids",
        choice(token_ids=[5] * 3, finish_reason="stop"),
        "ends after 3 of 8 tokens without one of the end tokens",
    ),
    "unknown id": ("ids", choice(token_ids=[5] * 7 + [2048]), "the id 2048, expected ids below"),
    "negative id": ("ids", choice(token_ids=[-1] * 8), r"token_ids\[0\]: found -1"),
    "half an id": ("ids", choice(token_ids=[1.5] * 8), r"token_ids\[0\]: found 1\.5"),
    "text as ids": ("ids", choice(token_ids="ids"), "token_ids: found 'ids'"),
    "no ids": ("ids", without("token_ids"), "no token ids, which the server gave before"),
    "null ids": ("ids", choice(token_ids=None), "no token ids, which the server gave before"),
    "no reason": ("ids", without("finish_reason"), "finish_reason: found nothing"),
    "aborted": ("ids", choice(finish_reason="abort"), "finish_reason: found 'abort'"),
    "no choices": ("ids", answering({"choices": []}), "choices: found"),
    "two choices": (
        "ids",
        changing(lambda right: right["choices"].append(right["choices"][0])),
        "choices: found",
    ),
    "another thing": ("ids", answering([1, 2]), r"completions: the answer: found \[1, 2\]"),
    "nothing": ("ids", answering(b""), "choices: found nothing"),
    "no JSON": ("ids", answering(b'{"choices": ['), "not JSON"),
    "a page": ("ids", answering(b"<p>", Content_Type="text/html"), "Content-Type text/html"),
    "a bad request": ("ids", status(400), "HTTP 400: no luck with 400"),
    "a moved server": ("ids", status(307, Location="http://elsewhere"), "a redirect to"),
    "an error each time": ("ids", [status(500)] * 3, "HTTP 500: no luck with 500"),
    "names of tokens": (
        "logprobs",
        choice(logprobs={"tokens": ["a"] * 8}),
        "found no token ids beside their log-probabilities",
    ),
    "null text": ("text", choice(text=None), "text: found nothing, expected the answer"),
    "a list as text": ("text", choice(text=["a"]), r"text: found \['a'\]"),
    "more text": (
        "text",
        changing(lambda right: right["usage"].update(completion_tokens=9)),
        "found 9 tokens, expected at most 8",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_ends_the_run_in_one_line_and_those_before_it_are_given(fake, folder, name):
    form, fault, message = ANSWERS[name]
    fake.form = form
    one = load(fake, folder)
    fake.faults = {SAMPLE: [None, *(fault if isinstance(fault, list) else [fault])]}
    answers = one.generate(REQUESTS, GREEDY)
    assert next(answers).index == 0
    with pytest.raises(RunFailure, match=message) as failure:
        list(answers)
    line = str(failure.value)
    assert line.startswith(f"{fake.url}/v1/completions: ")
    assert "\n" not in line
    assert failure.value.exit_code == 1


def test_a_server_that_is_too_slow_is_not_waited_for_twice(fake, folder):
    one = load(fake, folder, timeout_s=0.3)
    fake.faults = {SAMPLE: silent}
    with pytest.raises(RunFailure, match=r"no complete answer within 0\.3 s \(timeout_s\)"):
        list(one.generate(REQUESTS[:1], GREEDY))


SCORES = {
    "one too few": (lambda right: right["choices"][0]["prompt_logprobs"].pop() and None, "found 3"),
    "another token": (
        lambda right: right["choices"][0]["prompt_logprobs"].__setitem__(2, {"1": {"logprob": -1}}),
        r"prompt_logprobs\[2\]: found no token 7",
    ),
    "above one": (
        lambda right: right["choices"][0]["prompt_logprobs"][1]["6"].update(logprob=0.5),
        r"prompt_logprobs\[1\]\.6\.logprob: found 0\.5",
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_wrong_log_likelihoods(fake, folder, name):
    change, message = SCORES[name]
    one = load(fake, folder)
    one.check_log_likelihoods()
    fake.faults = {SCORE: changing(change)}
    with pytest.raises(RunFailure, match=message):
        list(one.log_likelihoods([Continuation((5, 6), (7, 8))]))


def two_models(right):
    right["data"] = [{"id": "a"}, {"id": "b"}]


BEFORE = {
    "another server": ({MODELS: answering({"detail": "?"})}, {}, "data: found nothing"),
    "no such call": ({MODELS: status(404)}, {}, r"HTTP 404.*usually ends in /v1"),
    "a wrong key": ({MODELS: status(401)}, {}, "HTTP 401"),
    "many models": ({MODELS: changing(two_models)}, {}, r"has 2 models \(a, b\); give model=NAME"),
    "another model": ({}, {"model": "c"}, "has no model c, but little; give one of these names"),
    "texts only": ({SAMPLE: status(400)}, {}, "expected a server that takes a prompt of token ids"),
    "ids read as text": (
        {SAMPLE: choice(prompt_token_ids=[1] * 40)},
        {},
        "as 40 other tokens; expected a server that takes token ids as they are",
    ),
    "too short": ({}, {}, "at most 512 tokens, but .* up to 600 tokens here"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_server_that_cannot_serve_the_run_is_a_mistake_and_not_waited_for(fake, folder, name):
    fake.faults, arguments, message = BEFORE[name]
    length = 600 if name == "too short" else 128
    with pytest.raises(DistillensError, match=message) as refused:
        load(fake, folder, length, **arguments)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_a_server_that_does_not_say_its_length_is_asked(fake, folder):
    del fake.entry["max_model_len"]
    load(fake, folder, 100)
    longest = max(len(body["prompt"]) for call, body in fake.calls if call == SAMPLE)
    assert longest == 99
    fake.faults = {SAMPLE: status(400)}
    with pytest.raises(DistillensError, match=r"no luck with 400; a prompt .* up to 100 tokens"):
        load(fake, folder, 100)


ARGUMENTS = {
    "no address": ({"base_url": None}, "no base_url"),
    "no address at all": ({"base_url": "localhost:8000"}, "such as http://localhost:8000/v1"),
    "a password": ({"base_url": "http://me:secret@host/v1"}, "a key only in the environment"),
    "no such variable": ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY: not set"),
    "a dtype": ({"dtype": "float16"}, "the type of the weights is the server's"),
    "a device": ({"device": "cpu"}, "--model server does not know it"),
    "retries": ({"max_retries": 3}, "give retry_s, in seconds"),
    "no threads": ({"num_concurrent": 0}, "from 1 to 1024"),
    "two numbers of threads": ({"num_concurrent": 2, "batch_size": 3}, "means the same"),
    "no time": ({"timeout_s": 0}, "timeout_s = 0, expected seconds"),
    "time as text": ({"retry_s": "1h"}, "retry_s = '1h', expected seconds"),
    "a number as a name": ({"model": 7}, "model = 7, expected a name"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_are_refused_before_the_server_is_asked(fake, folder, name):
    changes, message = ARGUMENTS[name]
    with pytest.raises(DistillensError, match=message) as refused:
        engine_of(fake, folder, **changes)
    assert "secret" not in str(refused.value)
    assert not fake.calls


def test_an_adapter_and_ngrams_are_not_for_a_server(fake, folder):
    engine = engine_of(fake, folder)
    with pytest.raises(DistillensError, match=r"--lora-modules NAME=DIR\); give model=NAME"):
        engine.backend.described(replace(engine.facts, adapter=folder), engine.arguments)
    with pytest.raises(DistillensError, match=r"a server does not have this rule .*minillm"):
        engine.load(max_length=128, no_repeat_ngrams=True)
    with pytest.raises(DistillensError, match=r"no pretrained=\.\.\."):
        choose_engine("server", {"base_url": fake.url})


@pytest.mark.parametrize("scores", ["prompt_logprobs", "echo"])
def test_a_server_that_is_busy_when_it_is_tried_out_is_not_taken_for_one_that_can_less(
    fake, folder, scores
):
    fake.form, fake.scores = "logprobs", scores
    del fake.entry["max_model_len"]
    expected = load(fake, folder)
    fake.faults = {SAMPLE: [status(429), None, status(503), None, status(429)]}
    fake.faults[SCORE] = [status(429), None, status(429)]
    found = load(fake, folder)
    assert found.signature() == expected.signature() is not None
    assert list(found.generate(REQUESTS, GREEDY)) == list(expected.generate(REQUESTS, GREEDY))
    fake.faults = {SCORE: [status(503)] * 20}
    with pytest.raises(RunFailure, match=r"HTTP 503.*gave up after") as away:
        load(fake, folder, retry_s=0.3)
    assert away.value.exit_code == 1
