"""Folders that killed processes have left are removed, and those of living ones never."""

import errno

import pytest

from distillens_plugin.storage.locked_folder import LockedFolder
from eval_harness.errors import DistillensError


def test_what_nobody_holds_is_removed_and_what_is_not_ours_stays(tmp_path):
    for name in ("of-this-killed", "of-that-killed", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "of-this-link").symlink_to(tmp_path / "elsewhere")
    first = LockedFolder(tmp_path, "of-this-")
    second = LockedFolder(tmp_path, "of-this-")
    assert (first.num_others, second.num_others) == (0, 1)
    assert first.folder.is_dir()
    assert not (tmp_path / "of-this-killed").exists()
    assert (tmp_path / "of-that-killed" / "file").exists()
    assert (tmp_path / "elsewhere" / "file").exists()
    for folder in (first, second):
        folder.close()
        folder.close()
        assert not folder.folder.exists()


def test_it_is_gone_with_its_object(tmp_path):
    folder = LockedFolder(tmp_path, "of-this-").folder
    assert not folder.exists()


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def flock(descriptor, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    first = LockedFolder(tmp_path, "of-this-")
    second = LockedFolder(tmp_path, "of-this-")
    assert first.folder.is_dir()
    assert second.num_others == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DistillensError, match=r"file/below: cannot be written \(.*another folder"):
        LockedFolder(tmp_path / "file" / "below", "of-this-")
