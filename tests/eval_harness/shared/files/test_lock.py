"""One run at a time in a folder: the holder is named, and what a killed one left is taken over."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from eval_harness.shared.files.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
FORK = """
import multiprocessing, sys, time
from pathlib import Path
from eval_harness.shared.files.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


def started(code, folder) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def holder_of(folder):
    return json.loads((folder / ".lock").read_text())


def test_a_second_run_is_refused_with_pid_and_host_and_a_dead_one_is_taken_over(tmp_path, capsys):
    process, _ = started(HOLD, tmp_path)
    try:
        message = f"in use by process {process.pid} on {socket.gethostname()}; wait for it"
        with pytest.raises(DistillensError, match=message), FolderLock(tmp_path):
            pass
    finally:
        kill(process)
    assert holder_of(tmp_path)["pid"] == process.pid
    with FolderLock(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()
    assert capsys.readouterr().err == ""


def test_the_same_process_cannot_hold_a_folder_twice(tmp_path):
    with (
        FolderLock(tmp_path),
        pytest.raises(DistillensError, match=f"process {os.getpid()}"),
        FolderLock(tmp_path),
    ):
        pass


def test_a_free_lock_of_another_host_is_taken_over_and_that_is_said(tmp_path, capsys):
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "elsewhere"}')
    with FolderLock(tmp_path):
        assert holder_of(tmp_path) == {"pid": os.getpid(), "host": socket.gethostname()}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "process 1 on elsewhere" in said
    assert "taking it over" in said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"pid": 3}'])
def test_a_lock_file_with_anything_in_it_is_taken(tmp_path, content, capsys):
    (tmp_path / ".lock").write_bytes(content)
    with FolderLock(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()
    assert capsys.readouterr().err == ""


def test_the_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), FolderLock(tmp_path):
        raise KeyError
    with FolderLock(tmp_path):
        pass


def test_a_folder_that_was_made_for_nothing_is_gone_again(tmp_path):
    folder = tmp_path / "a" / "b"
    with FolderLock(folder):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(folder):
        (folder / "result").touch()
    assert sorted(path.name for path in folder.iterdir()) == ["result"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        lock = FolderLock(folder, where="output_dir")
        with pytest.raises(DistillensError, match=r"^output_dir: .*file"):
            lock.acquire()


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "a/" * 3000])
def test_a_folder_that_cannot_be_is_one_line(tmp_path, name):
    with pytest.raises(DistillensError, match=r"^output_dir: cannot write to .*name another"):
        FolderLock(tmp_path / name, where="output_dir").acquire()


def test_a_link_to_nowhere_is_one_line(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "no" / "where")
    with pytest.raises(DistillensError, match=r"cannot write to .*link"):
        FolderLock(tmp_path / "link").acquire()


def test_readers_share_once_nothing_is_left_to_write(tmp_path):
    writer = FolderLock(tmp_path)
    writer.acquire(or_share=True)
    assert writer.exclusive
    second = FolderLock(tmp_path)
    with pytest.raises(DistillensError, match="in use by"):
        second.acquire(or_share=True)
    writer.share()
    second.acquire(or_share=True)
    assert not second.exclusive
    with pytest.raises(DistillensError, match="in use by another process"):
        FolderLock(tmp_path).acquire()
    writer.close()
    second.close()
    with FolderLock(tmp_path) as lock:
        assert lock.exclusive


def test_a_forked_worker_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path):
    process, worker = started(FORK, tmp_path)
    kill(process)
    try:
        os.kill(int(worker), 0)  # it is alive
        # It may have been killed before its worker had run at all.
        with FolderLock(tmp_path, patience_s=15):
            pass
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_children_that_are_given_the_lock_hold_it_too(tmp_path):
    lock = FolderLock(tmp_path, for_children=True)
    lock.acquire()
    child = subprocess.Popen(["sleep", "30"], pass_fds=(lock.descriptor,))
    os.close(lock.descriptor)  # as the end of this process would
    with pytest.raises(DistillensError, match="in use by"):
        FolderLock(tmp_path, patience_s=0.2).acquire()
    child.kill()
    child.wait()
    FolderLock(tmp_path, patience_s=5).acquire()


def test_a_patient_run_waits_for_one_that_is_about_to_end(tmp_path):
    process, _ = started(HOLD.replace("sleep(60)", "sleep(0.5)"), tmp_path)
    with FolderLock(tmp_path, patience_s=30):
        pass
    process.wait()
    process.stdout.close()


def _take_and_leave(folder, num_times):
    while num_times:
        try:
            with FolderLock(folder):
                mark = folder / "mark"
                mark.touch(exist_ok=False)
                time.sleep(0.0005)
                mark.unlink()
                num_times -= 1
        except DistillensError:
            time.sleep(0.0005)


def test_many_runs_at_once_get_the_lock_one_by_one(tmp_path):
    """Releasing removes file and folder; nobody may then hold a lock on the removed ones."""
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "out"
    runs = [context.Process(target=_take_and_leave, args=(folder, 20)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=120)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert not folder.exists() or list(folder.iterdir()) == []
