"""`eval-harness judge` and a chat model in a real `vllm serve`."""

import json
import sys

import pytest
from result_samples import save_answers
from vllm_server import VllmServer

from eval_harness.cli import main

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]

PROMPT = "{question}\nA: {answer_a}\nB: {answer_b}\nWrite [[A]], [[B]] or [[C]]."
# A random model says nothing else of its own accord.
CHOICE = {"structured_outputs": {"choice": ["[[A]]", "[[B]]", "[[C]]"]}, "max_tokens": 16}


@pytest.fixture
def server(usable_vllm, chat_model, tmp_path):
    flags = ("--served-model-name", "judge", "--max-model-len", "256")
    served = VllmServer(sys.executable, chat_model, tmp_path / "log", *flags)
    served.start()
    yield served
    served.kill()


def test_a_served_model_judges_and_nothing_is_asked_twice(server, tmp_path, capsys):
    folders = []
    for name, words in (("a", "yes " * 5), ("b", "no " * 9)):
        answers = [[f"{words}{n}", ""] for n in range(12)]
        folders.append(str(save_answers(tmp_path, name, answers)))
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT, encoding="utf-8")
    command = ["judge", *folders, f"--base_url={server.root}/v1", "--json", f"--prompt={prompt}"]
    command += ["--judge_model=judge", f"--output_path={tmp_path / 'judged'}"]

    assert main([*command, "--gen_kwargs=max_tokens=8"]) == 1
    assert "none of its 12 pairs has two readable verdicts" in capsys.readouterr().err
    choice = ["--gen_kwargs", json.dumps(CHOICE)]
    assert main([*command, *choice, "--limit=5"]) == 0
    capsys.readouterr()
    assert main([*command, *choice]) == 0
    said = capsys.readouterr()
    assert "14 of 24 verdicts to be asked of judge" in said.err
    found = json.loads(said.out)
    small = found["results"]["small"]
    assert small["wins"] + small["losses"] + small["ties"] == 12
    assert (small["num_unreadable"], small["position"]["num_verdicts"]) == (0, 24)
    assert found["judge"]["answered_by"] == ["judge"]

    assert main([*command, "--gen_kwargs=max_tokens=1000"]) == 1
    assert "HTTP 400" in capsys.readouterr().err.splitlines()[-1]
    server.kill()
    assert main([*command, *choice]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == found["results"]
