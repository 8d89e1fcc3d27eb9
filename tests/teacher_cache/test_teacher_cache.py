"""The teacher cache: stored once, read for ever, never mixed, never silently wrong."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from cached_run import LENS, Run, agree, cached_recipe
from run_process import TWO_PROCESSES, change, distillens, records
from tiny_run import save_tiny_model, tiny_recipe

from distillens_plugin.data.supervision import supervised_from_targets
from distillens_plugin.lens.forward import forward
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main
from distillens_plugin.teacher_cache import attach, attach_teacher_cache
from distillens_plugin.teacher_cache.plan import Plan, _row_ids
from distillens_plugin.teacher_cache.shards import find_torn, read_index, shard_paths
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uncached(tmp_path_factory):
    """Two epochs without a cache: the losses of each step."""
    run = Run(tiny_recipe(tmp_path_factory.mktemp("uncached")), cached=False)
    steps, calls = run.epoch(0)
    assert calls == 3
    return steps + run.epoch(1)[0]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two epochs that fill a cache: their losses, teacher calls, and the folder."""
    folder = tmp_path_factory.mktemp("filled")
    run = Run(cached_recipe(folder))
    first, first_calls = run.epoch(0)
    second, second_calls = run.epoch(1)
    run.close()
    return SimpleNamespace(
        folder=folder, steps=first + second, calls=(first_calls, second_calls), run=run
    )


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


ONE_PAIR = [f"{LENS}.layers={json.dumps({'student': [1], 'teacher': [2]})}"]
NO_PAIR = ["train.criterion.kwargs.sub_terms.lens=null"]


@pytest.mark.parametrize("overrides", [ONE_PAIR, NO_PAIR], ids=["one pair", "no lens"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_full_cache_serves_recipes_that_read_fewer_of_its_layers(
    filled, tmp_path, overrides, dtype
):
    path = filled.folder / "recipe.yaml"
    if dtype == "int8":
        path = cached_recipe(tmp_path, dtype="int8")
        run = Run(path)
        run.epoch(0)
        run.close()
    stored = folder_bytes(path.parent / "cache")
    run = Run(path, overrides=overrides)
    steps, calls = run.epoch(0)
    batch, targets = next(iter(run.box.train_data_loader))
    read = run.box.get_teacher_output(batch, targets, None)[0].states
    run.close()
    assert calls == 0
    assert set(read) == {"final", *run.cache.plan.states}
    assert len(read) == (2 if overrides is ONE_PAIR else 1)
    plain = Run(path, cached=False, overrides=overrides)
    agree(steps, plain.epoch(0)[0], rel=2**-7 if dtype == "bfloat16" else 0.05)
    assert folder_bytes(path.parent / "cache") == stored


def test_such_a_recipe_cannot_complete_the_cache(tmp_path, capsys):
    path = cached_recipe(tmp_path)
    run = Run(path)
    run.epoch(0, num_steps=1)
    run.close()
    stored = folder_bytes(tmp_path / "cache")
    expected = r"lacks rows, and holds states that this recipe does not read \(output:.*\.h\.3\)"
    with pytest.raises(DistillensError, match=expected):
        Run(path, overrides=ONE_PAIR)
    assert main([str(path), "--set", ONE_PAIR[0], "--validate"]) == 2
    assert "fill it with the recipe that reads these" in capsys.readouterr().err
    assert folder_bytes(tmp_path / "cache") == stored


def test_nor_can_a_process_that_does_not_see_all_of_a_full_cache(filled, monkeypatch):
    """As where the folder's listing has not yet come to another machine."""
    monkeypatch.setattr(Store, "refresh", lambda store, **kwargs: None)
    monkeypatch.setattr(attach, "_PATIENCE_S", 0.0)
    with pytest.raises(DistillensError, match="process 0 sees 23 rows fewer in"):
        Run(filled.folder / "recipe.yaml", overrides=ONE_PAIR)


def test_a_larger_cache_counts_against_the_limit_as_it_is(filled, capsys):
    arguments = [str(filled.folder / "recipe.yaml"), "--set", ONE_PAIR[0], "--validate"]
    assert main([*arguments, "--set", "teacher_cache.max_gb=0.0003"]) == 2
    assert "holds 0.35 MB, more than max_gb = 0.0003; raise it" in capsys.readouterr().err
    assert main(arguments) == 0


@pytest.mark.parametrize("states", [[["a"]], [1], None, {"a": 1}])
def test_a_fingerprint_of_other_types_is_refused_in_one_line(filled, tmp_path, capsys, states):
    path = copy_of(filled, tmp_path)
    file = tmp_path / "cache" / "fingerprint.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "states": states}), encoding="utf-8")
    assert main([str(path), "--validate"]) == 2
    assert "holds other states (teacher layers: " in capsys.readouterr().err


def test_a_look_at_a_cache_takes_a_spoilt_index_for_a_missing_one(filled, tmp_path, capsys):
    path = copy_of(filled, tmp_path)
    shard_paths(tmp_path / "cache")[0].with_suffix(".json").write_text('{"rows": [["a", ')
    assert main([str(path), "--validate"]) == 0
    assert "the whole teacher is loaded (" in capsys.readouterr().out


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


# --- refusals -------------------------------------------------------------------------------------


def copy_of(filled, folder):
    """A recipe folder with a filled cache, free to be spoilt."""
    shutil.copytree(filled.folder, folder, dirs_exist_ok=True)
    path = folder / "recipe.yaml"
    change(path, "models.teacher_model.name_or_path", str(folder / "teacher"))
    change(path, "output_dir", str(folder / "out"))
    return path


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("teacher_cache.dtype", "int8", "teacher_cache.dtype: bfloat16 there, int8 here"),
        (f"{LENS}.layers.teacher", [1, 4], "output:transformer.h.0 output:transformer.h.3 here"),
        ("datasets.train.num_rows", 20, "training rows: "),
        ("datasets.train.template", "qwen", "template: alpaca there, qwen here"),
        ("mixed_precision", "bf16", "mixed_precision: no there, bf16 here"),
    ],
)
def test_a_cache_of_something_else_is_never_mixed_in(filled, dotted, value, expected):
    stored = folder_bytes(filled.folder / "cache")
    overrides = [f"{dotted}={json.dumps(value)}"]
    if dotted == "mixed_precision":
        # accelerate's state keeps one precision a process, so the recipe alone is looked at.
        experiment = Run(filled.folder / "recipe.yaml", cached=False).experiment
        experiment.recipe = load_recipe(str(filled.folder / "recipe.yaml"), overrides=overrides)
        with pytest.raises(DistillensError) as caught:
            attach_teacher_cache(experiment)
    else:
        with pytest.raises(DistillensError) as caught:
            Run(filled.folder / "recipe.yaml", overrides=overrides)
    assert expected in str(caught.value)
    assert "name another path or delete that folder" in str(caught.value)
    assert folder_bytes(filled.folder / "cache") == stored


def test_another_teacher_is_refused_in_one_line_with_exit_code_2(filled, tmp_path):
    path = copy_of(filled, tmp_path)
    save_tiny_model(tmp_path / "teacher", seed=2)
    done = distillens(path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1
    assert "teacher's weights: " in done.stderr
    assert str(tmp_path / "cache") in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_moved_teacher_is_the_same_teacher(filled, tmp_path):
    path = copy_of(filled, tmp_path)
    (tmp_path / "teacher").rename(tmp_path / "moved")
    run = Run(path, overrides=[f"models.teacher_model.name_or_path={tmp_path / 'moved'}"])
    run.close()
    assert "the teacher will not run" in run.cache.lines[-1]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


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


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    path = cached_recipe(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(DistillensError, match=r"is not a teacher cache \(it holds thesis\.tex\)"):
        Run(path)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["thesis.tex"]


def test_rows_that_share_an_id_are_refused(tmp_path):
    path = cached_recipe(tmp_path)
    data = tmp_path / "rows.jsonl"
    row = '{"id": "twin", "instruction": "a", "output": "b"}\n'
    data.write_text(row * 2, encoding="utf-8")
    with pytest.raises(DistillensError, match="2 training rows have the id 'twin'"):
        Run(path, overrides=[f"datasets.train.path={data}"])
    assert not (tmp_path / "cache").exists()


def test_a_term_that_reads_more_of_the_teacher_is_refused(tmp_path):
    path = cached_recipe(tmp_path)
    change(
        path,
        "train.criterion.kwargs.sub_terms.hint",
        {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {
                    "student_module_path": "lm_head",
                    "student_module_io": "output",
                    "teacher_module_path": "lm_head",
                    "teacher_module_io": "output",
                    "temperature": 1.0,
                    "alpha": 0.5,
                },
            },
            "weight": 1.0,
        },
    )
    with pytest.raises(DistillensError, match=r"sub-term hint .* which the cache does not keep"):
        Run(path)


def test_a_teacher_that_returns_logits_is_refused(tmp_path):
    path = cached_recipe(tmp_path)
    change(path, "train.teacher", {"forward_proc": "distillens.forward_with_logits"})
    with pytest.raises(DistillensError, match=r"set train\.teacher\.forward_proc"):
        Run(path)


def test_rows_without_an_id_are_refused():
    with pytest.raises(DistillensError, match="r: training row 1 has no id, but the cache finds"):
        _row_ids([{"id": "a"}, {"input_ids": [1]}], "r")
