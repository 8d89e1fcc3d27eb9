"""Runs at the same time: many may read a cache, one may write it."""

import os

import pytest
from cached_run import Run, cached_recipe, copy_of, truncate

from distillens_plugin.teacher_cache import attach
from distillens_plugin.teacher_cache.shards import find_torn, shard_paths
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock


def test_a_cache_that_another_run_fills_is_refused(tmp_path):
    path = cached_recipe(tmp_path)
    other = FolderLock(tmp_path / "cache", name="lock")
    other.acquire()
    assert other.exclusive
    with pytest.raises(DistillensError, match=rf"in use by process {os.getpid()} .* fills this"):
        Run(path)
    other.close()
    Run(path).close()


def test_a_full_cache_is_read_by_several_runs_at_once(filled):
    other = Run(filled.folder / "recipe.yaml")
    run = Run(filled.folder / "recipe.yaml")
    assert run.epoch(0)[1] == 0
    run.close()
    other.close()


def test_runs_may_start_on_a_full_cache_at_the_same_moment(filled, monkeypatch):
    """While one still reads every byte of it, the next one opens it."""
    others = []

    def open_beside(folder):
        if not others:
            others.append(folder)
            run = Run(filled.folder / "recipe.yaml")
            assert run.epoch(0)[1] == 0
            run.close()
        return find_torn(folder)

    monkeypatch.setattr(attach, "find_torn", open_beside)
    run = Run(filled.folder / "recipe.yaml")
    assert others
    assert run.epoch(0)[1] == 0
    run.close()


def test_a_torn_cache_is_not_mended_under_another_runs_feet(filled, tmp_path):
    path = copy_of(filled, tmp_path)
    other = FolderLock(tmp_path / "cache", name="lock")
    other.acquire(or_share=True)
    other.share()
    (shard,) = shard_paths(tmp_path / "cache")
    truncate(shard)
    torn = shard.read_bytes()
    with pytest.raises(DistillensError, match="other runs are reading it"):
        Run(path)
    assert shard.read_bytes() == torn
    other.close()
