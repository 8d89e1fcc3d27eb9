"""One training run at a time in an output folder, as real processes."""

import json
import signal
import subprocess
import sys
import time

import pytest
from run_process import ENVIRONMENT, TWO_PROCESSES, distillens, records
from tiny_run import REPO, tiny_recipe

from distillens_plugin.run import main


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("locked"))


@pytest.fixture(scope="module")
def running(recipe):
    """A run that goes on while the tests try to start others in its folder."""
    folder = recipe.parent / "out"
    command = [sys.executable, "-m", "distillens_plugin.run", recipe, "--set=train.num_epochs=900"]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=REPO
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process, folder
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("option", [None, "--overwrite", "--resume"])
def test_a_second_run_is_refused_before_it_touches_anything(recipe, running, capsys, option):
    process, folder = running
    before = (folder / "recipe.yaml").read_text()
    assert main([str(recipe), *filter(None, [option])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"in use by process {process.pid} on " in said
    assert process.poll() is None
    assert (folder / "recipe.yaml").read_text() == before


def test_two_processes_are_refused_alike_and_do_not_hang(recipe, running):
    process, _ = running
    done = distillens(recipe, "--overwrite", launcher=TWO_PROCESSES, timeout=120)
    assert done.returncode != 0
    lines = [line for line in done.stderr.split("\n") if line.startswith("distillens run: ")]
    # The launcher ends the second process when the first has ended, at times before its own line.
    assert lines
    assert all(f"in use by process {process.pid} on " in line for line in lines)
    assert "Traceback" not in "\n".join(lines)
    assert process.poll() is None


def test_what_a_killed_run_on_another_host_left_is_taken_over(recipe, running, capsys):
    process, folder = running
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((folder / ".lock").read_text())["pid"] == process.pid
    (folder / ".lock").write_text('{"pid": 7, "host": "elsewhere"}')
    assert main([str(recipe), "--overwrite"]) == 0
    assert "process 7 on elsewhere left a lock" in capsys.readouterr().err
    assert not (folder / ".lock").exists()
    steps = [record["step"] for record in records(folder) if "loss" in record]
    assert steps == sorted(set(steps))


def test_a_run_refused_for_another_reason_leaves_no_folder(recipe, tmp_path, capsys):
    folder = tmp_path / "new" / "out"
    options = ("--output_dir", str(folder), "--set", "datasets.train.path=./nowhere.jsonl")
    assert main([str(recipe), *options]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_alone_is_neither_a_run_nor_foreign(recipe, tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 7, "host": "elsewhere"}')
    assert main([str(recipe), "--output_dir", str(tmp_path)]) == 0
