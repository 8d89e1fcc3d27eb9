"""What a command raises, as one line and an exit code; signals among it."""

import signal
import subprocess
import sys
import time

import pytest

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.program.command import run_command
from eval_harness.shared.program.signals import ENDING_SIGNALS


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DistillensError("a.yaml: wrong\nkey"), 2, "p: a.yaml: wrong key\n"),
        (RunFailure("the disk is full"), 1, "p: the disk is full\n"),
        (KeyError("k"), 1, "p: KeyError: 'k' (--debug shows the traceback)\n"),
        (KeyboardInterrupt(), 130, "p: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert run_command(raising(error), program="p") == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_is_one_line_and_128_and_its_number(capsys, number):
    before = signal.getsignal(number)
    assert run_command(lambda: signal.raise_signal(number), program="p") == 128 + number
    assert signal.getsignal(number) is before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("p: ")


def test_an_exception_that_the_signal_became_is_still_the_signal(capsys):
    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("cannot import name 'x'") from error

    assert run_command(command, program="p") == 143
    assert capsys.readouterr().err == "p: terminated\n"


def test_a_signal_within_code_that_c_runs_ends_with_the_exit_code_too(tmp_path):
    (tmp_path / "own_program.py").write_text(
        "import ctypes, signal, sys\n"
        "from eval_harness.shared.program.command import Invocation, run_program\n"
        "run = ctypes.pythonapi.PyRun_String\n"
        "run.restype = ctypes.py_object\n"
        "run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]\n"
        "def command():\n"
        "    text = b'import signal; signal.raise_signal(signal.SIGINT)'\n"
        "    run(text, 257, globals(), globals())\n"
        "call = Invocation(command, 'p')\n"
        "sys.exit(run_program(lambda: call, program='p', ends_process=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "own_program"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "p: interrupted\n")


def test_a_signal_that_a_destructor_swallowed_comes_again(capsys):
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)

    def command():
        swallows = Swallows()
        del swallows
        for _ in range(500):
            time.sleep(0.01)

    assert run_command(command, program="p") == 130
    assert capsys.readouterr().err == "p: interrupted\n"
