"""The size of a cache, told and held against its limit and the disk beforehand."""

import pytest
from cached_run import Run, cached_recipe
from run_process import change, distillens

from distillens_plugin.run import main
from distillens_plugin.teacher_cache.plan import Plan
from distillens_plugin.teacher_cache.shards import shard_paths
from eval_harness.errors import DistillensError


def test_the_size_is_printed_beforehand_and_held_against_the_limit(filled, tmp_path):
    run = Run(filled.folder / "recipe.yaml")
    run.close()
    num_bytes = run.cache.plan.num_bytes
    (shard,) = shard_paths(filled.folder / "cache")
    assert 0 <= shard.stat().st_size - num_bytes < 1000  # the header
    path = cached_recipe(tmp_path)
    change(path, "teacher_cache.max_gb", 0.0001)
    done = distillens(path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1
    assert f"needs {num_bytes / 1e6:.2f} MB, more than max_gb = 0.0001" in done.stderr
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_refused_and_what_is_stored_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("distillens_plugin.teacher_cache.plan.free_bytes", lambda folder: 10**9)
    plan = Plan(tmp_path, "here", (), (), (), 0, num_bytes=3 * 10**9, dtype="int8", max_gb=None)
    with pytest.raises(DistillensError, match=r"needs 2\.50 GB more .* only 1\.00 GB are free"):
        plan.check_size(stored_bytes=5 * 10**8)
    plan.check_size(stored_bytes=2 * 10**9)


def test_a_dry_run_tells_the_size_and_writes_nothing(tmp_path, capsys):
    path = cached_recipe(tmp_path)
    assert main([str(path), "--dry-run"]) == 0
    assert "supervised positions x 3 states (bfloat16) = 0.35 MB" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()
