"""The answer store survives kills and torn lines; the folder lock names its holder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.store import AnswerStore, FolderLock

SETTINGS = {"model": "m", "sampling": {"temperature": 1.0}}
TEXTS = ["a\u2028b\x85c", "nul\x00 and \ud800", "emoji 🙂", "crlf\r\n", ""]

HOLD = """
import sys, time
from pathlib import Path
from eval_harness.store import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def filled(path, texts=TEXTS):
    store = AnswerStore(path, SETTINGS)
    for number, text in enumerate(texts):
        store.add((str(number), "10"), {"text": text})
    store.close()


def reopened(path) -> AnswerStore:
    store = AnswerStore(path, SETTINGS)
    store.close()
    return store


def test_rows_come_back_as_they_were(path):
    filled(path)
    rows = reopened(path).rows
    assert [rows[str(number), "10"]["text"] for number in range(len(TEXTS))] == TEXTS


def test_every_cut_of_the_file_keeps_the_whole_lines_before_it(path):
    filled(path)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole_lines = content[:size].count(b"\n")
        assert len(reopened(path).rows) == max(0, whole_lines - 1)
        assert path.read_bytes().endswith(b"\n")


def test_appending_after_a_torn_line_gives_the_uninterrupted_file(path):
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    store = AnswerStore(path, SETTINGS)
    assert store.num_torn_bytes > 0
    store.add((str(len(TEXTS) - 1), "10"), {"text": TEXTS[-1]})
    store.close()
    assert path.read_bytes() == whole


def test_other_settings_are_refused(path):
    filled(path)
    with pytest.raises(
        DistillensError, match=r"answers.jsonl:1: made under .* give another output"
    ):
        AnswerStore(path, {**SETTINGS, "model": "other"})


def test_a_broken_line_in_the_middle_is_named(path):
    filled(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"{broken"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DistillensError, match=r"answers.jsonl:3:2: not JSON"):
        AnswerStore(path, SETTINGS)


def test_a_line_without_a_key_is_named(path):
    filled(path)
    path.write_bytes(path.read_bytes() + b'{"text": "x"}\n')
    with pytest.raises(DistillensError, match=r"answers.jsonl:7: no key"):
        AnswerStore(path, SETTINGS)


def test_a_key_is_written_once(path):
    store = AnswerStore(path, SETTINGS)
    store.add(("a",), {"text": "x"})
    with pytest.raises(ValueError, match="already"):
        store.add(("a",), {"text": "y"})
    store.close()


def test_a_full_disk_is_a_failure_of_the_run():
    with pytest.raises(RunFailure, match="/dev/full: cannot be"):
        AnswerStore(Path("/dev/full"), SETTINGS).add(("a",), {"text": "x"})


def holder(tmp_path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_pid_and_host_and_a_dead_one_is_taken_over(tmp_path):
    process = holder(tmp_path)
    try:
        message = f"in use by process {process.pid} on {socket.gethostname()}"
        with pytest.raises(DistillensError, match=message), FolderLock(tmp_path):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_the_same_process_cannot_hold_a_folder_twice(tmp_path):
    with (
        FolderLock(tmp_path),
        pytest.raises(DistillensError, match=f"process {os.getpid()}"),
        FolderLock(tmp_path),
    ):
        pass


def test_a_lock_of_another_host_is_never_taken_over(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "elsewhere"}')
    with (
        pytest.raises(DistillensError, match=r"process 1 on elsewhere.*remove .*lock"),
        FolderLock(tmp_path),
    ):
        pass


def test_the_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), FolderLock(tmp_path):
        raise KeyError
    with FolderLock(tmp_path):
        pass


def test_many_runs_at_once_get_the_lock_one_by_one(tmp_path):
    """Releasing removes the file; nobody may then hold a lock on the removed one."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from eval_harness.errors import DistillensError\n"
        "from eval_harness.store import FolderLock\n"
        "folder = Path(sys.argv[1])\ndone = 0\n"
        "while done < 20:\n"
        "    try:\n"
        "        with FolderLock(folder):\n"
        "            mark = folder / 'mark'\n"
        "            mark.touch(exist_ok=False)\n"
        "            time.sleep(0.0005)\n"
        "            mark.unlink()\n"
        "            done += 1\n"
        "    except DistillensError:\n"
        "        time.sleep(0.0005)\n"
    )
    started = time.monotonic()
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert time.monotonic() - started < 120
