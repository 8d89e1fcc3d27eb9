"""Files as chunks and back: the same files, no more, and nothing outside the named places."""

import io
import tarfile

import pytest

from distillens_plugin.study.parcel import pack, unpack
from eval_harness.errors import RunFailure


def test_a_tree_arrives_whole_and_replaces_what_was_there(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run = here / "main" / "train"
    (run / "best").mkdir(parents=True)
    (run / "empty").mkdir()
    weights = bytes(range(256)) * 5000
    (run / "best" / "model.safetensors").write_bytes(weights)
    (run / ".lock").write_text("of a process here")
    (here / "answers.jsonl").write_text("{}\n")
    stale = there / "main" / "train" / "state" / "old.bin"
    stale.parent.mkdir(parents=True)
    stale.write_text("x")
    other = there / "main" / "log.txt"
    other.write_text("kept")

    chunks = list(pack(here, [run, here / "answers.jsonl"], chunk_bytes=100_000))
    assert len(chunks) > 10
    assert {len(chunk) for chunk in chunks[:-1]} == {100_000}
    unpack(chunks, there, [there / "main" / "train", there / "answers.jsonl"])

    arrived = there / "main" / "train"
    assert (arrived / "best" / "model.safetensors").read_bytes() == weights
    assert (arrived / "empty").is_dir()
    assert not (arrived / ".lock").exists()
    assert not stale.exists()
    assert other.read_text() == "kept"
    assert (there / "answers.jsonl").read_text() == "{}\n"
    assert {path.name for path in there.iterdir()} == {"main", "answers.jsonl"}


def test_what_does_not_exist_is_absent_on_the_other_side_too(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (there / "train").mkdir(parents=True)
    unpack(pack(here, [here / "train"]), there, [there / "train"])
    assert not (there / "train").exists()


@pytest.mark.parametrize("damage", ["cut", "outside"])
def test_a_damaged_archive_leaves_everything_as_it_was(tmp_path, damage):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "a.bin").write_bytes(folder.name.encode() * 5000)
    if damage == "cut":
        data = b"".join(pack(here, [here / "a.bin"]))[:6000]
    else:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("../outside.bin"))
        data = archive.getvalue()
    with pytest.raises(RunFailure, match="damaged"):
        unpack([data], there, [there / "a.bin"])
    assert (there / "a.bin").read_bytes() == b"there" * 5000
    assert not (tmp_path / "outside.bin").exists()
