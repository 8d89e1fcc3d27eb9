"""How long the JSON client waits between tries, and what it says of a failure."""

import time
from email.utils import formatdate

import pytest
from fake_judge import FakeJudge
from fake_server import MODELS, reset, running, send, status

from eval_harness.shared.endpoint import http_json
from eval_harness.shared.endpoint.http_json import EndpointFailure, JsonClient

PATH = "/v1/models"


@pytest.fixture
def fake():
    with running(FakeJudge()) as server:
        yield server


@pytest.fixture
def waits(monkeypatch):
    """What the client sleeps between tries, without sleeping."""
    found: list[float] = []
    monkeypatch.setattr(http_json.time, "sleep", found.append)
    return found


def ask(fake, **settings):
    return JsonClient(fake.url, **{"timeout_s": 60, **settings}).ask("GET", PATH)


def test_pauses_grow_and_differ_between_clients(fake, waits):
    fake.faults[MODELS] = [status(503)] * 4
    assert ask(fake) == fake.models
    for wait, least in zip(waits, (0.25, 0.5, 1.0, 2.0), strict=True):
        assert least <= wait <= 1.25 * least
    fake.faults[MODELS] = [status(503)] * 4
    ask(fake)
    assert waits[:4] != waits[4:]


@pytest.mark.parametrize("value", ["40", lambda: formatdate(time.time() + 40.9, usegmt=True)])
def test_a_server_that_asks_for_a_pause_gets_it(fake, waits, value):
    header = value if isinstance(value, str) else value()
    fake.faults[MODELS] = [status(429, Retry_After=header)]
    assert ask(fake) == fake.models
    assert len(waits) == 1
    assert 39 <= waits[0] <= 52


@pytest.mark.parametrize("header", ["-1", "soon", "", "1e9", "9" * 30, "Mon, 99 Foo 2026"])
def test_a_pause_that_is_none_is_the_usual_one(fake, waits, header):
    fake.faults[MODELS] = [status(429, Retry_After=header)]
    assert ask(fake) == fake.models
    assert waits[0] < 1


def test_a_pause_beyond_the_time_limit_ends_the_wait(fake, waits):
    fake.faults[MODELS] = status(503, Retry_After="61")
    with pytest.raises(EndpointFailure, match=r"HTTP 503: no luck with 503, asked to wait 61 s$"):
        ask(fake)
    assert waits == []


def test_what_is_tried_again_is_the_callers_choice(fake, waits):
    fake.faults[MODELS] = [status(500)]
    assert ask(fake, retried=(500,)) == fake.models
    for code in (500, 503):
        fake.faults[MODELS] = [status(code)]
        with pytest.raises(EndpointFailure, match=f"HTTP {code}"):
            ask(fake, retried=())
    assert len(waits) == 1


def test_a_failure_says_how_far_the_request_came(fake):
    fake.faults[MODELS] = status(400)
    with pytest.raises(EndpointFailure) as caught:
        ask(fake)
    assert (caught.value.status, caught.value.connected) == (400, True)
    fake.faults[MODELS] = reset
    with pytest.raises(EndpointFailure) as caught:
        ask(fake, timeout_s=0.2)
    assert (caught.value.status, caught.value.connected) == (None, True)
    fake.url = "http://127.0.0.1:9"
    with pytest.raises(EndpointFailure) as caught:
        ask(fake, timeout_s=0.2)
    assert (caught.value.status, caught.value.connected) == (None, False)


@pytest.mark.parametrize("code", [401, 429])
def test_a_server_that_repeats_the_key_does_not_get_it_printed(fake, code):
    said = {"error": {"message": "no such key: sk-very-secret"}}
    fake.faults[MODELS] = lambda handler, right: send(handler, said, status=code)
    with pytest.raises(EndpointFailure, match=rf"HTTP {code}: no such key: \*\*\*"):
        ask(fake, headers={"Authorization": "Bearer sk-very-secret"}, timeout_s=0.2)


@pytest.mark.parametrize(("key", "shown"), [("sk-0123456789abcdef", "***"), ("EMPTY", "EMPTY")])
def test_a_real_key_is_not_in_an_answer_and_a_word_is_left_alone(fake, key, shown):
    fake.faults[MODELS] = lambda handler, right: send(handler, {"text": [f"is {key}"]})
    assert ask(fake, headers={"Authorization": f"Bearer {key}"}) == {"text": [f"is {shown}"]}


def test_no_part_of_a_key_is_left_where_a_long_error_is_cut(fake):
    said = {"error": {"message": "." * 290 + "sk-0123456789abcdef"}}
    fake.faults[MODELS] = lambda handler, right: send(handler, said, status=400)
    with pytest.raises(EndpointFailure, match=r"\.\*\*\*$"):
        ask(fake, headers={"Authorization": "Bearer sk-0123456789abcdef"})
