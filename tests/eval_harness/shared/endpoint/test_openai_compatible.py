"""Addresses, keys and models of endpoints: read once, refused in one line, a key told to nobody."""

import pytest
from fake_judge import FakeJudge
from fake_server import MODELS, answering, reset, running, status

from eval_harness.errors import DistillensError
from eval_harness.shared.endpoint.http_json import JsonClient
from eval_harness.shared.endpoint.openai_compatible import (
    check_model_is_served,
    checked_base_url,
    key_headers,
)

BEARER = {"Authorization": "Bearer sk-1"}


@pytest.mark.parametrize(
    "given",
    [
        "http://localhost:8000/v1",
        " http://localhost:8000/v1/ ",
        "http://localhost:8000/v1/chat/completions",
        "http://localhost:8000/v1/completions/",
    ],
)
def test_a_calls_path_is_no_part_of_the_address(given):
    assert checked_base_url(given, flag="--base_url") == "http://localhost:8000/v1"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost:8000",
        "ftp://localhost",
        "http://",
        "http:///v1",
        "http://[",
        "http://host:port/v1",
        "http://a b/v1",
        "http://host/v1\r\nX: y",
        "https://me:secret@host/v1",
        "https://host/v1?api_key=secret",
        "https://host/v1#secret",
    ],
)
def test_another_address_is_refused_without_its_secrets(given):
    with pytest.raises(DistillensError, match=r"--base_url.*expected") as caught:
        checked_base_url(given, flag="--base_url")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [
        ("http://localhost:8000/v1", None, BEARER),
        ("http://127.0.0.1:8000/v1", None, BEARER),
        ("http://[::1]:8000/v1", None, BEARER),
        ("https://api.example.com/v1", None, BEARER),
        # Unencrypted to another machine: only a key that was named for it.
        ("http://api.example.com/v1", None, {}),
        ("http://10.0.0.1:8000/v1", None, {}),
        ("http://localhost.example.com/v1", None, {}),
        ("http://10.0.0.1:8000/v1", "OPENAI_API_KEY", BEARER),
    ],
)
def test_a_key_that_was_not_named_does_not_leave_the_machine_unencrypted(
    monkeypatch, address, variable, expected
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert key_headers(address, variable=variable, flag="--api_key_env") == expected


def test_no_key_is_needed(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert key_headers("http://localhost/v1", variable=None, flag="--api_key_env") == {}
    with pytest.raises(DistillensError, match="--api_key_env MINE: not set in the environment"):
        key_headers("http://localhost/v1", variable="MINE", flag="--api_key_env")


@pytest.fixture
def fake():
    with running(FakeJudge()) as server:
        yield server


def check(fake, model="judge-1"):
    client = JsonClient(f"{fake.url}/v1", timeout_s=2)
    check_model_is_served(client, model, flag="--model")


@pytest.mark.parametrize("fault", [None, *map(status, (404, 405, 429, 500, 503))])
def test_a_model_is_taken_where_it_is_served_or_nobody_says(fake, fault):
    fake.faults[MODELS] = fault
    check(fake)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status(401), "expected a key that it takes; --api_key_env names"),
        (status(400), "HTTP 400.*expected an OpenAI-compatible endpoint"),
        (reset, "the connection failed.*expected an OpenAI-compatible"),
        (answering({"data": []}), r"data: found \[\]"),
        (answering({"data": [{"id": 1}]}), r"data\[0\].id: found 1"),
        (answering([]), r"the answer: found \[\]"),
    ],
    ids=["401", "400", "reset", "none", "number", "list"],
)
def test_an_endpoint_that_does_not_say_what_it_serves_is_refused(fake, fault, expected):
    fake.faults[MODELS] = fault
    with pytest.raises(DistillensError, match=expected) as caught:
        check(fake)
    assert caught.value.exit_code == 2


def test_the_nearest_of_many_models_is_named(fake):
    fake.models["data"] = [{"id": f"model-{n}"} for n in range(100)]
    with pytest.raises(DistillensError, match=r"model-7 and 92 more; .* did you mean 'model-42'"):
        check(fake, "modell-42")
