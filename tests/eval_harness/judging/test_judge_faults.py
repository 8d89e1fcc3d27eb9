"""A judge's endpoint that misbehaves: no verdict is lost or invented, and one line says why."""

import json
import threading

import pytest
from fake_judge import CHAT, MODEL
from fake_server import answering, changing, dripping, reset, silent, status

from eval_harness.cli import main
from eval_harness.errors import RunFailure
from eval_harness.generation.store import AnswerStore
from eval_harness.judging import judge as judge_module
from eval_harness.judging.judge import Judge, JudgedRow
from eval_harness.judging.work import ask_missing


@pytest.fixture
def call(systems, fake, tmp_path, capsys):
    """Runs the command; its exit code, what it printed, and the last line of stderr."""

    def run(*more: str) -> tuple[int, str, str]:
        code = main(
            [
                "judge",
                *map(str, systems),
                f"--base_url={fake.url}/v1",
                f"--judge_model={MODEL}",
                f"--output_path={tmp_path / 'judged'}",
                "--json",
                *more,
            ]
        )
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()[-1]

    return run


def choices(value):
    return answering({"choices": value})


def said(**message):
    return changing(lambda right: right["choices"][0].update(message=message))


LONG = changing(lambda right: right["choices"][0]["message"].update(content="x" * 2**16))
ONE_ROW = {
    "web page": (answering(b"<html>", Content_Type="text/html"), "found Content-Type text/html"),
    "half JSON": (answering(b'{"choices": ['), "the answer is not JSON"),
    "nothing": (answering(b""), "choices: found nothing"),
    "a number": (answering(7), "the answer: found 7"),
    "no choice": (choices([]), "choices: found []"),
    "null": (choices(None), "choices: found None"),
    "no message": (choices([{"text": "[[A]]"}]), "choices[0].message: found nothing"),
    "number": (said(content=1), "choices[0].message.content: found 1"),
    "parts": (said(content=[{"text": "[[A]]"}]), "choices[0].message.content: found [{"),
    "two": (changing(lambda r: r.update(choices=r["choices"] * 2)), "choices: found [{"),
    "huge": (LONG, "the answer is longer than 0.03125 MiB"),
    "redirect": (status(307, Location="http://elsewhere/"), "a redirect to http://elsewhere/"),
    "400": (status(400), "HTTP 400: no luck with 400"),
    "501": (status(501), "HTTP 501: no luck with 501"),
    "429 for ever": (status(429, Retry_After="86400"), "asked to wait 86400 s"),
    "silence": (silent, "no complete answer within 0.5 s"),
    "dripping": (dripping(False), "no complete answer within 0.5 s"),
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_a_fault_on_one_row_costs_no_other_verdict(call, fake, tmp_path, monkeypatch, name):
    monkeypatch.setattr(judge_module, "_MAX_BYTES", 2**15)
    fault, expected = ONE_ROW[name]
    fake.only_for("Question 3?", fault)
    code, out, line = call("--timeout_s=0.5")
    assert (code, out) == (1, "")
    assert line.startswith("eval-harness judge: 2 of 20 verdicts are missing (small row 'row-3'; ")
    assert expected in line
    assert line.endswith("--allow_missing leaves their pairs out")
    assert not list((tmp_path / "judged").glob("judge_*"))
    fake.faults[CHAT] = fake.answer
    num_before = len(fake.messages)
    code, out, _ = call()
    assert code == 0
    assert json.loads(out)["results"]["small"]["wins"] == 7
    assert len(fake.messages) == num_before + 2


def test_missing_verdicts_may_be_left_out(call, fake):
    fake.only_for("Question 3?", status(400))
    code, out, _ = call("--allow_missing")
    found = json.loads(out)["results"]["small"]
    assert (code, found["num_missing"], found["num_rows"], found["wins"]) == (0, 2, 9, 6)


def test_a_fault_that_is_gone_the_second_time_is_not_noticed(call, fake):
    garbage = answering(b"[")
    fake.faults[CHAT] = [garbage, status(429, Retry_After="0"), garbage, status(500), status(503)]
    code, out, _ = call()
    assert code == 0
    assert json.loads(out)["results"]["small"]["wins"] == 7


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(answering(b"["), "not JSON"), (status(400), "HTTP 400"), (reset, "connection failed")],
    ids=["garbage", "refusal", "reset"],
)
def test_an_endpoint_that_is_broken_for_all_is_not_asked_for_all(call, fake, fault, expected):
    fake.faults[CHAT] = fault
    code, _, line = call("--timeout_s=0.4", "--max_concurrent=1")
    assert code == 1
    assert expected in line
    assert "0 verdicts are kept in" in line
    assert line.endswith("the same command goes on from there")
    assert len({*fake.messages}) == 8


def test_rows_that_are_too_long_for_the_judge_do_not_end_a_run_that_works(call, fake):
    def refuse_late_rows(handler, right):
        late = any(f"Question {n}?" in right["asked"] for n in range(5, 10))
        (status(400) if late else fake.answer)(handler, right)

    fake.faults[CHAT] = refuse_late_rows
    code, _, line = call("--max_concurrent=1")
    assert code == 1
    assert "10 of 20 verdicts are missing" in line
    assert "row 'row-8' and 1 more" in line
    assert len(fake.messages) == 20  # a request that is refused is not tried again


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_key_or_call_that_is_refused_ends_the_run_at_once(call, fake, code):
    fake.faults[CHAT] = status(code)
    exit_code, _, line = call("--max_concurrent=1")
    assert (exit_code, len(fake.messages)) == (1, 1)
    assert f"HTTP {code}" in line


def test_a_server_that_is_gone_ends_the_run_with_what_is_kept(tmp_path):
    judge = Judge(MODEL, "http://127.0.0.1:9/v1", timeout_s=0.3)
    store = AnswerStore(tmp_path / "verdicts.jsonl", {}, JudgedRow)
    with pytest.raises(RunFailure, match=r"refused.*0 verdicts are kept in .*verdicts\.jsonl"):
        ask_missing({("a", str(n), ""): "?" for n in range(50)}, store, judge, max_concurrent=2)
    store.close()


def test_requests_are_in_flight_together_and_never_more_than_allowed(call, fake):
    fake.together = threading.Barrier(4)
    code, out, _ = call("--max_concurrent=4")
    assert (code, fake.most_at_once) == (0, 4)
    assert json.loads(out)["results"]["small"]["wins"] == 7


def test_one_at_a_time(call, fake):
    assert call("--max_concurrent=1")[0] == 0
    assert fake.most_at_once == 1
