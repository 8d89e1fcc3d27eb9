"""A file that a writer of its own fills appears whole or not at all."""

import os

import pytest

from eval_harness.errors import RunFailure
from eval_harness.shared.files.atomic import whole_file, write_bytes


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with whole_file(target) as partial:
        partial.write_text("half")
        assert target.read_text() == "old"
        assert partial.parent == tmp_path
    assert target.read_text() == "half"
    assert os.listdir(tmp_path) == ["file"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def write(partial):
        partial.write_text("half")
        raise KeyError

    with pytest.raises(KeyError), whole_file(target) as partial:
        write(partial)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_reported_with_the_file_s_name(tmp_path):
    target = tmp_path / "file"
    with (
        pytest.raises(RunFailure, match="file: cannot be written: No space left"),
        whole_file(target),
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []
    with (
        pytest.raises(RunFailure, match="no/file: cannot be written: No such file"),
        whole_file(tmp_path / "no" / "file"),
    ):
        raise AssertionError("there is no folder to write in")


def test_it_is_as_readable_as_any_other_file_and_follows_links(tmp_path):
    plain, target, link = tmp_path / "plain", tmp_path / "target", tmp_path / "link"
    plain.touch()
    link.symlink_to(target)
    write_bytes(link, b"content")
    assert link.is_symlink()
    assert target.read_bytes() == b"content"
    assert target.stat().st_mode == plain.stat().st_mode
