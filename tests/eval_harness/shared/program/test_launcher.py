"""What launchers say to their processes, and which of them speaks."""

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.program import launcher
from eval_harness.shared.program.command import OneLineParser, run_command
from eval_harness.shared.program.launcher import Launch, is_main_process, launch_of

SECOND = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_the_place_of_a_process():
    assert launch_of(SECOND) == Launch(rank=3, size=4, local_rank=1, local_size=2)
    assert launch_of({}) == launch_of({"WORLD_SIZE": "1", "RANK": "0"}) == Launch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "x"}, "RANK = 'x', expected a whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two', expected a whole number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK = '', expected a whole number"),
        ({"RANK": "4"}, "RANK = 4 of WORLD_SIZE = 4"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
    ],
)
def test_half_a_launcher_is_refused(change, message):
    with pytest.raises(DistillensError, match=message):
        launch_of({**SECOND, **change})


def test_one_process_speaks(monkeypatch, capsys):
    assert is_main_process({})
    assert is_main_process({**SECOND, "RANK": "0"})
    assert not is_main_process(SECOND)
    monkeypatch.setattr(launcher, "_TIME_TO_SPEAK_S", 0.0)
    for rank, said in (("0", "own: the following arguments are required"), ("3", "")):
        for name, value in {**SECOND, "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        parser = OneLineParser(prog="own")
        parser.add_argument("needed")
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([])
        assert ended.value.code == 2
        found = capsys.readouterr().err
        assert found.startswith(said)
        assert bool(found) == bool(said)


def test_an_error_that_another_process_says_ends_the_command_in_silence(capsys):
    def fail():
        error = DistillensError("no such task")
        error.said_elsewhere = True
        raise error

    assert run_command(fail, program="own") == 2
    assert capsys.readouterr().err == ""
