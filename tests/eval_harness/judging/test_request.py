"""`judge` from Python: the command's own work, and arguments of the right types."""

import json

import pytest
from fake_judge import MODEL

from eval_harness import judge
from eval_harness.cli import main
from eval_harness.errors import DistillensError


def test_it_is_what_the_command_does(arguments, systems, fake, capsys, tmp_path):
    where = {"base_url": fake.url, "judge_model": MODEL, "output_path": tmp_path / "judged"}
    fake.right = lambda call, body, right=fake.right: right(f"/v1{call}", body)
    fake.faults = {}
    found = judge(*systems, **where)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == found.to_json()["results"]
    assert json.loads(found.path.read_text()) == found.to_json()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{found}\n"
    assert len(fake.calls) == 21


PYTHON = {
    "limit": ({"limit": 1.5}, "limit = 1.5, expected a number of rows"),
    "limit text": ({"limit": "3"}, "limit = '3', expected a number of rows"),
    "threads": ({"max_concurrent": 0}, "max_concurrent = 0, expected an integer above 0"),
    "time": ({"timeout_s": float("nan")}, "timeout_s = nan, expected seconds"),
    "switch": ({"all_seeds": "no"}, "all_seeds = 'no', expected True or False"),
    "kwargs": ({"gen_kwargs": [1]}, r"gen_kwargs = \[1\], expected a dict"),
    "tasks": ({"tasks": ["small", "big"]}, "--tasks big: not a task that both systems have"),
    "model": ({"judge_model": None}, "judge_model = None, expected a text"),
    "place": ({"output_path": ""}, "output_path = '' is empty, expected a folder"),
}


@pytest.mark.parametrize("name", PYTHON)
def test_a_wrong_argument_is_named(systems, fake, tmp_path, name):
    more, expected = PYTHON[name]
    where = {"base_url": fake.url, "judge_model": MODEL, "output_path": tmp_path / "judged"}
    with pytest.raises(DistillensError, match=expected):
        judge(*systems, **{**where, **more})
    assert not (tmp_path / "judged").exists()
