"""The output folder: what is a run's, what is not, and what a kill leaves."""

import os
import tempfile
from pathlib import Path

import pytest

from distillens_plugin.storage import run_folder
from eval_harness.errors import DistillensError


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        if path.suffix or name.startswith(".clear"):
            path.write_text("", encoding="utf-8")
        else:
            path.mkdir()
            (path / "a").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("x" * 300, "File name too long"),
        ("a\0b", "null byte"),
        ("file.txt", "file.txt is a file"),
        ("file.txt/runs/out", "file.txt is a file"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path, place, told):
    (tmp_path / "file.txt").write_text("", encoding="utf-8")
    with pytest.raises(DistillensError, match=told) as error:
        run_folder.check_free(tmp_path / place, overwrite=False)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert os.listdir(tmp_path) == ["file.txt"]


def test_checking_makes_nothing(tmp_path):
    run_folder.check_free(tmp_path / "new" / "folder", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written():
    # Root may write everywhere, so a child asks that is nobody; its folder's parents let it in.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                run_folder.check_free(Path(name) / "out", overwrite=False)
            except DistillensError as error:
                code = 0 if "cannot write" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        os.chmod(name, 0o700)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "name",
    ["best", "state_before", "fingerprint.json", ".best.replaced", ".state.partial", ".clearing"],
)
def test_what_a_run_leaves_is_known_as_a_runs(tmp_path, name):
    fill(tmp_path, name, ".lock")
    with pytest.raises(DistillensError, match="holds a run"):
        run_folder.check_free(tmp_path, overwrite=False)
    run_folder.check_free(tmp_path, overwrite=True)


def test_trackers_of_a_run_that_was_not_replaced_come_back(tmp_path):
    """Also where the process was killed after its trackers had started."""
    fill(tmp_path, "trackers", "best")
    with run_folder.trackers_anew(tmp_path):
        fill(tmp_path, "trackers")
        (tmp_path / "trackers" / "new").touch()
    assert sorted(os.listdir(tmp_path)) == [".trackers.replaced", "best", "trackers"]
    run_folder.tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best", "trackers"]
    assert os.listdir(tmp_path / "trackers") == ["a"]
    with run_folder.trackers_anew(tmp_path):
        fill(tmp_path, "trackers")
        (tmp_path / "trackers" / "new").touch()
    with run_folder.cleared(tmp_path, keep=("trackers",)):
        pass
    assert os.listdir(tmp_path) == ["trackers"]
    assert sorted(os.listdir(tmp_path / "trackers")) == ["a", "new"]


def test_files_of_others_are_refused_and_never_removed(tmp_path):
    fill(tmp_path, "notes.txt")
    for overwrite in (False, True):
        with pytest.raises(DistillensError, match="no run wrote, such as notes"):
            run_folder.check_free(tmp_path, overwrite=overwrite)
    fill(tmp_path, "best", "recipe.yaml", ".recipe.yaml.k3j", ".last.partial", ".mine.partial")
    with run_folder.cleared(tmp_path):
        assert run_folder.is_half_cleared(tmp_path)
        assert sorted(os.listdir(tmp_path)) == [".clearing", ".mine.partial", "notes.txt"]
    assert sorted(os.listdir(tmp_path)) == [".mine.partial", "notes.txt"]


def test_what_ends_within_clearing_stays_known(tmp_path):
    fill(tmp_path, "best", "state")
    with pytest.raises(KeyboardInterrupt), run_folder.cleared(tmp_path):
        raise KeyboardInterrupt
    assert run_folder.is_half_cleared(tmp_path)
    with run_folder.cleared(tmp_path):
        pass
    assert not run_folder.is_half_cleared(tmp_path)


def test_tidying_brings_folders_back_and_removes_what_is_unfinished(tmp_path):
    fill(tmp_path, ".best.replaced", ".best.partial", "last", ".last.replaced", ".summary.json.x")
    fill(tmp_path, "recipe.yaml", "notes.txt")
    lines = run_folder.tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "notes.txt", "recipe.yaml"]
    (line,) = lines
    assert line.startswith(str(tmp_path / "best"))
    assert run_folder.tidy(tmp_path) == []
    assert run_folder.tidy(tmp_path / "missing") == []
