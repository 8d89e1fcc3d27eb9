"""Shards that were cut off or damaged: noticed, told, and computed again."""

import pytest
from cached_run import Run, copy_of, folder_bytes, truncate

from distillens_plugin.run import main
from distillens_plugin.teacher_cache.shards import find_torn, shard_paths


def test_a_look_at_a_cache_takes_a_spoilt_index_for_a_missing_one(filled, tmp_path, capsys):
    path = copy_of(filled, tmp_path)
    shard_paths(tmp_path / "cache")[0].with_suffix(".json").write_text('{"rows": [["a", ')
    assert main([str(path), "--validate"]) == 0
    assert "the whole teacher is loaded (" in capsys.readouterr().out


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def spoil_index(path):
    path.with_suffix(".json").write_text('{"rows": [["a", ', encoding="utf-8")


def lose_index(path):
    path.with_suffix(".json").unlink()


def lose_shard(path):
    path.unlink()


@pytest.mark.parametrize("tear", [flip_a_byte, truncate, spoil_index, lose_index, lose_shard])
def test_a_torn_shard_is_noticed_and_its_rows_are_computed_again(filled, tmp_path, tear):
    path = copy_of(filled, tmp_path)
    (shard,) = shard_paths(tmp_path / "cache")
    tear(shard)
    assert find_torn(tmp_path / "cache") == [shard]
    (tmp_path / "cache" / "shard-0-00009.partial").write_bytes(b"half")
    run = Run(path)
    warning, count = run.cache.lines[1:]
    assert warning.startswith("warning: ")
    assert str(shard) in warning
    assert "0 of 23 rows are stored" in count
    first, calls = run.epoch(0)
    run.close()
    assert calls == 3
    assert first == filled.steps[:3]
    assert find_torn(tmp_path / "cache") == []
    assert folder_bytes(tmp_path / "cache") == folder_bytes(filled.folder / "cache")
