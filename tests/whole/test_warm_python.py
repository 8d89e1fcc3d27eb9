"""Forked Python processes behave as new ones do, and this session's commands are forked."""

import os
import signal
import subprocess
import sys
import time

import pytest
import warm_python
import watched
from shell import shell
from tiny_run import REPO

PROBE = """
import atexit, json, os, sys

def is_file(number):
    # Neither a socket to a server nor the folder that is being listed.
    try:
        return not os.readlink(f"/proc/self/fd/{number}").startswith("socket")
    except OSError:
        return False

atexit.register(print, "at exit", flush=True)
print(json.dumps({
    "name": __name__, "argv": sys.argv, "folder": os.getcwd(), "first": sys.path[0],
    "own": os.environ.get("OWN"), "group": os.getpgid(0) == os.getpid(), "in": sys.stdin.read(),
    "open": sorted(n for n in os.listdir("/proc/self/fd") if is_file(n)),
    "from": [path for path in sys.path if path.endswith("elsewhere")],
}))
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
ENDS = {
    "nothing": "",
    "code": "import sys; sys.exit(3)",
    "text": "import sys; sys.exit('a word')",
    "error": "1 / 0",
    "interrupt": "import atexit, os, signal; atexit.register(print, 'last'); print('x'); "
    "os.kill(os.getpid(), signal.SIGINT)",
    "unread": "import os, sys; sys.stdout = open('/dev/full', 'w'); print('x')",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "thread": "import threading; threading.Timer(0.2, print, 'x').start()",
}


@pytest.fixture(params=["new", "forked"])
def how(request):
    if request.param == "new":
        with warm_python.cold():
            yield request.param
    else:
        yield request.param


def is_forked(process):
    """Whether its command line is the server's."""
    with open(f"/proc/{process.pid}/cmdline", encoding="utf-8") as file:
        return "warm_server" in file.read()


def run(script, *arguments, **options):
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.skipif(
    os.environ.get("DISTILLENS_COLD_TESTS") == "1", reason="all processes are started anew"
)
def test_commands_of_this_session_are_forked(tmp_path):
    """Whatever the tests before have done to the environment."""
    (tmp_path / "waits.py").write_text("print(input())\n", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, tmp_path / "waits.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    forked = is_forked(process)
    assert process.communicate("x\n") == ("x\n", None)
    assert forked
    assert process.returncode == 0


def test_a_session_in_which_the_environment_was_changed_for_good_fails(tmp_path):
    change = "import os\ndef pytest_collection_finish():\n    os.environ['HF_OWN'] = '1'\n"
    (tmp_path / "changes.py").write_text(change, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["tests/whole/test_habits.py", "-k", "issue_forms"]
    for more, code in ((["-p", "changes"], 1), ([], 0)):
        done = subprocess.run(
            [*command, *more],
            capture_output=True,
            text=True,
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "DISTILLENS_COLD_TESTS": "0"},
        )
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        assert done.returncode == code
        assert ("processes were not forked: {'HF_OWN': '1'}" in done.stdout) is bool(code)


def test_who_watches_a_command_sees_what_it_starts(tmp_path, how):
    (tmp_path / "nothing.py").touch()

    def main(arguments):
        return subprocess.run([sys.executable, *arguments]).returncode

    seen = watched.call(main, [str(tmp_path / "nothing.py")])
    assert seen.code == 0
    assert [what.partition(" ")[0] for what in seen.touched] == ["subprocess.Popen"]


def test_a_process_has_what_it_was_given(tmp_path, how):
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "OWN": "1", "PYTHONPATH": str(tmp_path / "elsewhere")}
    done = run("probe.py", "a b", cwd=tmp_path, env=environment, input="x", start_new_session=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1:] == ["at exit"]
    assert lines[0] == (
        f'{{"name": "__main__", "argv": ["probe.py", "a b"], "folder": "{tmp_path}", '
        f'"first": "{tmp_path}", "own": "1", "group": true, "in": "x", "open": ["0", "1", "2"], '
        f'"from": ["{tmp_path}/elsewhere"]}}'
    )


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_as_a_new_one_does(tmp_path, end):
    (tmp_path / "end.py").write_text(ENDS[end] + "\n", encoding="utf-8")
    forked = run("end.py", cwd=tmp_path)
    with warm_python.cold():
        new = run("end.py", cwd=tmp_path)
    assert (forked.returncode, forked.stdout) == (new.returncode, new.stdout)
    # A traceback also shows the lines that forked it.
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_a_process_can_be_stopped_waited_for_and_left_alone(tmp_path, how):
    (tmp_path / "sleep.py").write_text("import time; print(1, flush=True); time.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-u", tmp_path / "sleep.py"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "1\n"
    assert is_forked(process) is (how == "forked" and subprocess.Popen is warm_python.Popen)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    assert process.communicate() == ("", None)
    assert time.monotonic() - began < 30


def test_lines_of_bash_get_output_errors_and_exit_codes(tmp_path):
    done = shell(
        "distillens run nowhere || echo code $?; echo x | python -c 'print(input())'", tmp_path
    )
    assert done.stdout == "code 2\nx\n"
    assert done.stderr.startswith("distillens run: nowhere: ")
    assert done.stderr.count("\n") == 1


def test_a_module_of_the_repository_is_that_of_this_checkout(tmp_path, how):
    """Also where another checkout is installed."""
    (tmp_path / "where.py").write_text("import eval_harness; print(eval_harness.__file__)\n")
    done = run("where.py", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)})
    assert done.stdout == f"{REPO / 'eval_harness' / '__init__.py'}\n"
