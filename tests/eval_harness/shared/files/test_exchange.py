"""A folder that is replaced is there at every moment, whatever ends the process."""

import signal
import subprocess
import sys

import pytest

from eval_harness.shared.files import exchange as module
from eval_harness.shared.files.exchange import (
    exchange,
    partial_of,
    put_back,
    recover,
    replace_folder,
)

# Ends itself by a signal before its n-th change on disk; n is counted over every such call.
ENDS_ITSELF = """
import os, shutil, signal, sys
from pathlib import Path
from eval_harness.shared.files import exchange
from eval_harness.shared.program.signals import SignalGuard

folder, way, number, point = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
calls = 0
def counted(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == point:
            os.kill(os.getpid(), number)
        return function(*arguments, **keywords)
    return call

for owner, name in ((os, "rename"), (shutil, "rmtree"), (os, "unlink"), (exchange, "_renameat2")):
    setattr(owner, name, counted(getattr(owner, name)))
if way == "two renames":
    exchange._renameat2 = lambda: None
SignalGuard().install()
exchange.replace_folder(exchange.partial_of(folder), folder, keep=folder.with_name("before"))
print("done")
"""
ENDS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}


def fill(folder, text):
    folder.mkdir()
    (folder / "one").write_text(text, encoding="utf-8")
    (folder / "two").write_text(text, encoding="utf-8")


def content(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


OLD, NEW = ({"one": text, "two": text} for text in ("old", "new"))


@pytest.mark.parametrize("way", ["exchange", "two renames"])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_lost_wherever_the_process_ends(tmp_path, way, end):
    finished = False
    for point in range(1, 20):
        parent = tmp_path / str(point)
        parent.mkdir()
        folder = parent / "best"
        fill(folder, "old")
        fill(parent / "before", "older")
        fill(partial_of(folder), "new")
        arguments = [str(folder), way, str(int(ENDS[end])), str(point)]
        done = subprocess.run(
            [sys.executable, "-c", ENDS_ITSELF, *arguments], capture_output=True, text=True
        )
        finished = done.stdout == "done\n"
        if finished:
            break
        # Without an exchange, a kill can leave the folder aside: nobody was there to put it back.
        if way == "exchange" or end != "killed":
            assert content(folder) in (OLD, NEW), point
        recover(folder)
        recover(parent / "before")
        assert content(folder) in (OLD, NEW), point
        assert sorted(path.name for path in parent.iterdir()) == ["before", "best"], point
        assert set(content(parent / "before").values()) <= {"older", "old"}
    assert finished
    assert point > 3
    assert content(folder) == NEW
    assert content(parent / "before") == OLD
    assert sorted(path.name for path in parent.iterdir()) == ["before", "best"]


def test_this_file_system_exchanges_in_one_step(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux's")
    fill(tmp_path / "a", "a")
    fill(tmp_path / "b", "b")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("the file system of the temporary folder has no exchange")
    assert content(tmp_path / "a")["one"] == "b"
    assert content(tmp_path / "b")["one"] == "a"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "missing", tmp_path / "b")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(module, "_renameat2", lambda: None)
    fill(tmp_path / "best", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "best")
    assert content(tmp_path / "best") == OLD
    fill(tmp_path / ".best.partial", "new")
    replace_folder(tmp_path / ".best.partial", tmp_path / "best")
    assert content(tmp_path / "best") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_that_lies_aside_comes_back_and_what_is_left_over_goes(tmp_path):
    folder = tmp_path / "best"
    fill(tmp_path / ".best.replaced", "old")
    fill(tmp_path / ".best.partial", "half")
    assert recover(folder)
    assert content(folder) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert not recover(folder)
    assert not put_back(folder)
    # A folder that lies aside also comes back when the next one is about to take its place.
    folder.rename(tmp_path / ".best.replaced")
    fill(partial_of(folder), "new")
    replace_folder(partial_of(folder), folder, keep=tmp_path / "before")
    assert content(folder) == NEW
    assert content(tmp_path / "before") == OLD
