"""A run with a teacher cache: the teacher runs once, and the losses stay what they are."""

import pytest
import torch
from cached_run import LENS, Run, agree, cached_recipe
from run_process import TWO_PROCESSES, change, distillens, records
from tiny_run import tiny_recipe

from distillens_plugin.data.supervision import supervised_from_targets
from distillens_plugin.lens.forward import forward
from distillens_plugin.teacher_cache.shards import read_index, shard_paths


@pytest.fixture(scope="module")
def uncached(tmp_path_factory):
    """Two epochs without a cache: the losses of each step."""
    run = Run(tiny_recipe(tmp_path_factory.mktemp("uncached")), cached=False)
    steps, calls = run.epoch(0)
    assert calls == 3
    return steps + run.epoch(1)[0]


def test_the_teacher_runs_in_the_first_epoch_only(filled):
    assert filled.calls == (3, 0)


def test_losses_agree_with_the_uncached_run_within_bfloat16_rounding(filled, uncached):
    agree(filled.steps, uncached, rel=2**-7)
    assert filled.steps != uncached


def test_int8_losses_stay_near_those_of_the_uncached_run(tmp_path, uncached):
    run = Run(cached_recipe(tmp_path, dtype="int8"))
    steps = run.epoch(0)[0] + run.epoch(1)[0]
    run.close()
    agree(steps, uncached, rel=0.05)
    assert steps != uncached


def test_the_losses_read_exactly_the_rounded_states_of_the_teacher(filled):
    box = filled.run.box
    batch, targets = next(iter(box.train_data_loader))
    supervised = supervised_from_targets(targets)
    cached, _ = box.get_teacher_output(batch, targets, None)
    with torch.no_grad():
        live = forward(box.teacher_model, batch)
    # The same rows in another batch differ in the last bits before they are rounded.
    rounded = live.final_rows(supervised).bfloat16().float()
    torch.testing.assert_close(cached.final_rows(supervised), rounded, rtol=2**-7, atol=1e-6)
    assert cached.final_rows(supervised).dtype == torch.float32
    assert cached.final_rows(supervised) is cached.final_rows(supervised)


def test_a_second_run_starts_from_the_cache_and_repeats_the_first(filled):
    run = Run(filled.folder / "recipe.yaml")
    assert "23 of 23 rows are stored; the teacher will not run" in run.cache.lines[-1]
    steps = run.epoch(0)[0] + run.epoch(1)[0]
    run.close()
    assert run.num_teacher_calls == 0
    assert steps == filled.steps


def test_a_run_cut_short_leaves_a_part_that_the_next_one_completes(tmp_path, filled):
    path = cached_recipe(tmp_path)
    run = Run(path)
    run.epoch(0, num_steps=1)
    run.close()
    run = Run(path)
    assert "8 of 23 rows are stored; the teacher runs for the others" in run.cache.lines[-1]
    # A second order of the rows: batches hold rows of both kinds, and the teacher runs for those.
    _, calls = run.epoch(1)
    assert 2 <= calls <= 3
    steps, calls = run.epoch(2)
    run.close()
    assert calls == 0
    rows = [row for path in shard_paths(tmp_path / "cache") for row, _ in read_index(path).rows]
    assert len(rows) == len(set(rows)) == 23
    assert len(steps) == 3


def test_rows_are_written_whenever_enough_have_come_together(tmp_path, filled):
    run = Run(cached_recipe(tmp_path), shard_bytes=1)
    steps = run.epoch(0)[0] + run.epoch(1)[0]
    run.close()
    assert len(shard_paths(tmp_path / "cache")) == 3
    assert steps == filled.steps


def test_gradient_accumulation_reads_the_cache_too(tmp_path, uncached):
    path = cached_recipe(
        tmp_path,
        train__train_data_loader__kwargs__batch_size=4,
        train__optimizer__grad_accum_step=2,
    )
    run = Run(path)
    first, first_calls = run.epoch(0)
    second, second_calls = run.epoch(1)
    run.close()
    assert (first_calls, second_calls) == (6, 0)
    plain = Run(path, cached=False)
    agree(first + second, plain.epoch(0)[0] + plain.epoch(1)[0], rel=2**-7)


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_one_cache_serves_both_norms(filled, norm):
    overrides = [f"{LENS}.norm={norm}"]
    run = Run(filled.folder / "recipe.yaml", overrides=overrides)
    steps, calls = run.epoch(0)
    run.close()
    assert calls == 0
    plain = Run(filled.folder / "recipe.yaml", cached=False, overrides=overrides)
    agree(steps, plain.epoch(0)[0], rel=2**-7)


def test_the_cache_of_a_bfloat16_run_gives_back_what_the_teacher_computed(tmp_path):
    """The types under autocast are not the weights' own, and a second run must find the same."""
    path = cached_recipe(tmp_path)
    overrides = ["models.teacher_model.dtype=bfloat16"]
    run = Run(path, overrides=overrides)
    first, _ = run.epoch(0)
    run.close()
    plain = Run(path, cached=False, overrides=overrides)
    # bfloat16 states are stored as they are.
    assert first == plain.epoch(0)[0]


def test_two_processes_share_what_each_has_stored(tmp_path):
    path = cached_recipe(tmp_path, train__num_epochs=2)
    change(path, "train.train_data_loader.kwargs.batch_size", 4)
    cached = distillens(path, launcher=TWO_PROCESSES)
    assert cached.returncode == 0, cached.stderr[-3000:]
    indexes = {path.name: read_index(path) for path in shard_paths(tmp_path / "cache")}
    assert {name.split("-")[1] for name in indexes} == {"0", "1"}
    # Had a process not found the other's rows, the second epoch would have stored them again; one
    # row fills the last batch up, so that both processes have as many.
    rows = [row for index in indexes.values() for row, _ in index.rows]
    assert len(set(rows)) == 23
    assert len(rows) <= 24
    steps = loss_terms(tmp_path / "out")
    change(path, "teacher_cache", None)
    plain = distillens(path, "--overwrite", launcher=TWO_PROCESSES)
    assert plain.returncode == 0, plain.stderr[-3000:]
    agree(loss_terms(tmp_path / "out"), steps, rel=2**-7)


def loss_terms(folder):
    names = ("loss", "kd", "lens", "lens/1-2", "lens/2-4")
    steps = [record for record in records(folder) if "loss" in record]
    return [{name: record[name] for name in names} for record in steps]
