"""`distillens cache`: the states of a run's own first epoch, resumable, from several machines."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from cached_run import LENS, Run, agree, cached_recipe
from run_process import ENVIRONMENT, change
from transformers import GPT2LMHeadModel

from distillens_plugin.cli import main
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main as run
from distillens_plugin.teacher_cache.choice import needs_readout_alone
from distillens_plugin.teacher_cache.fill import engines, filling
from distillens_plugin.teacher_cache.fill import filler as filler_module
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
from distillens_plugin.teacher_cache.fill.rows import Part
from distillens_plugin.teacher_cache.fill.transformers_engine import TransformersEngine
from distillens_plugin.teacher_cache.shards import read_index, shard_paths
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import DistillensError, RunFailure

CPU = torch.device("cpu")


def stored(folder):
    """Row id -> its states by name, as read back."""
    store = Store(folder, dtype="bfloat16")
    store.refresh()
    rows = [row for path in shard_paths(folder) for row, _ in read_index(path).rows]
    return {row: store.read([row], CPU) for row in rows}, rows


def fill(path, *, overrides=(), **settings):
    return fill_cache(load_recipe(str(path), overrides), FillSettings("hf", **settings))


def spare(filled, folder):
    """A copy of a filled folder, free to be spoilt."""
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    path = folder / "recipe.yaml"
    change(path, "models.teacher_model.name_or_path", str(folder / "teacher"))
    change(path, "output_dir", str(folder / "out"))
    return path


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder whose cache `distillens cache` has filled."""
    folder = tmp_path_factory.mktemp("filled")
    line = fill(cached_recipe(folder), chunk_bytes=200_000)
    assert len(shard_paths(folder / "cache")) == 2
    assert "23 of 23 rows are stored" in line
    assert "23 computed by hf" in line
    assert line.endswith("the cache is full")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder whose cache a run has filled, and the run's loss terms."""
    folder = tmp_path_factory.mktemp("trained")
    filling = Run(cached_recipe(folder))
    steps = filling.epoch(0)[0] + filling.epoch(1)[0]
    filling.close()
    return folder, steps


def test_the_states_are_those_of_a_runs_own_first_epoch(filled, trained):
    states, rows = stored(filled / "cache")
    expected, _ = stored(trained[0] / "cache")
    assert sorted(rows) == sorted(expected)
    for row, found in states.items():
        assert found.keys() == expected[row].keys()
        for name, values in found.items():
            assert values.dtype == expected[row][name].dtype == torch.float32
            # Other batches differ in the last bits before they are rounded to bfloat16.
            torch.testing.assert_close(values, expected[row][name], rtol=2**-7, atol=1e-6)


def test_in_the_same_batches_they_are_the_same_bits(tmp_path):
    paths = [cached_recipe(tmp_path / name) for name in ("fill", "run")]
    for path in paths:
        change(path, "train.train_data_loader.kwargs.batch_size", 1)
        change(path, "datasets.train.num_rows", 8)
        change(path, "models.teacher_model.name_or_path", str(tmp_path / "run" / "teacher"))
    fill(paths[0])
    filling = Run(paths[1])
    filling.epoch(0)
    filling.close()
    states, _ = stored(tmp_path / "fill" / "cache")
    expected, _ = stored(tmp_path / "run" / "cache")
    for row, found in expected.items():
        assert all(torch.equal(states[row][name], value) for name, value in found.items())


def test_a_run_on_it_loads_no_teacher_and_has_the_same_losses(filled, trained):
    path = filled / "recipe.yaml"
    recipe = load_recipe(str(path))
    assert needs_readout_alone(recipe, load_data(recipe)[1])
    reading = Run(path, states_only=True)
    steps = reading.epoch(0)[0] + reading.epoch(1)[0]
    reading.close()
    agree(steps, trained[1], rel=2**-7)
    assert reading.num_teacher_calls == 0


def test_the_command_says_what_it_did_and_a_run_says_what_it_loaded(tmp_path, capsys):
    path = cached_recipe(tmp_path, models__teacher_model__name_or_path=str(tmp_path / "teacher"))
    change(path, "teacher_cache.teacher", "states_only")
    assert run([str(path), "--set", "train.num_epochs=2"]) == 2
    command = f"fill it: distillens cache {path} --set train.num_epochs=2 --model hf"
    assert command in capsys.readouterr().err
    assert main(["cache", str(path), "--batch_size", "4"]) == 0
    assert main(["cache", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "supervised positions x 3 states" in lines[0]
    assert "nats from hf's own log-probabilities" in lines[1]
    assert "nothing was missing" in lines[3]
    assert run([str(path), "--validate"]) == 0
    assert "is full; only the teacher's readout and head are loaded" in capsys.readouterr().out
    for arguments in (["--dry-run"], []):
        assert run([str(path), *arguments]) == 0
        output = capsys.readouterr().out
        assert "teacher: states only: its readout and head, 73,792 of 124,608 param" in output
        assert "the teacher will not run" in output


FILL = """
import sys
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main as run
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
from distillens_plugin.teacher_cache.fill.rows import Part
part = Part.parse(sys.argv[2])
print(fill_cache(load_recipe(sys.argv[1]), FillSettings("hf", part=part, chunk_bytes=1)))
"""


def filler(path, part="1/1"):
    """A process that stores row by row."""
    return subprocess.Popen(
        [sys.executable, "-c", FILL, str(path), part], env=ENVIRONMENT, stdout=subprocess.PIPE
    )


def test_a_killed_fill_loses_the_rows_in_hand_alone(tmp_path):
    path = cached_recipe(tmp_path)
    process = filler(path)
    while len(shard_paths(tmp_path / "cache")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (tmp_path / "cache" / "shard-x-00000.partial").write_bytes(b"half")
    kept = {path: path.read_bytes() for path in shard_paths(tmp_path / "cache")}
    assert 3 <= len(kept) < 23
    assert f"{23 - len(kept)} computed by hf" in fill(path)
    assert all(path.read_bytes() == content for path, content in kept.items())
    _, rows = stored(tmp_path / "cache")
    assert len(rows) == len(set(rows)) == 23
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_slow_engine_is_stored_by_time_and_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    # Every row is later than the last write, and the chunk has room for all of them.
    for limit in ("WRITE_EVERY_S", "SAY_EVERY_S"):
        monkeypatch.setattr(filler_module, limit, 0.0)
    assert "the cache is full" in fill(cached_recipe(tmp_path))
    assert len(shard_paths(tmp_path / "cache")) == 23
    assert "teacher cache: stored 22 of 23 missing rows" in capsys.readouterr().out


def test_several_fill_one_cache_at_once(tmp_path, filled):
    path = cached_recipe(tmp_path)
    processes = [filler(path, part) for part in ("1/1", "2/2")]
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    states, rows = stored(tmp_path / "cache")
    assert len(set(rows)) == 23
    expected, _ = stored(filled / "cache")
    for row, found in states.items():
        for name, values in found.items():
            torch.testing.assert_close(values, expected[row][name], rtol=2**-7, atol=1e-6)
    recipe = load_recipe(str(path))
    assert needs_readout_alone(recipe, load_data(recipe)[1])


class OneLayerOff(TransformersEngine):
    """A real engine whose last states are those of the block before."""

    def states(self, rows, layers):
        for result in super().states(rows, layers):
            wrong = {**result.states, 4: result.states[2]}
            yield replace(result, states=wrong)


class RowsMixedUp(TransformersEngine):
    """A real engine that gives a row's states in another order of positions."""

    def states(self, rows, layers):
        for result in super().states(rows, layers):
            yield replace(result, states={k: v.flip(0) for k, v in result.states.items()})


@pytest.mark.parametrize("engine", [OneLayerOff, RowsMixedUp])
def test_states_that_the_engines_own_probabilities_contradict_are_not_stored(
    filled, tmp_path, monkeypatch, engine
):
    path = spare(filled, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setitem(engines.ENGINES, "hf", lambda order: engine(order.recipe, {}, batch_size=8))
    sharpen(tmp_path / "teacher")
    with pytest.raises(RunFailure, match=r"nats on average, allowed 0\.02; nothing of this chunk"):
        fill(path)
    assert shard_paths(tmp_path / "cache") == []
    assert main(["cache", str(path)]) == 1


def sharpen(folder):
    """A random model is unsure of everything; wider weights give it opinions."""
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)


def forget_a_shard(folder):
    """As if the fill had been cut short."""
    shard_paths(folder)[0].unlink()


def test_two_engines_are_never_mixed(filled, tmp_path, capsys):
    path = spare(filled, tmp_path)
    forget_a_shard(tmp_path / "cache")
    assert run([str(path)]) == 2
    assert re.search(r"lacks \d+ of 23 rows; fill it: distillens c", capsys.readouterr().err)
    with pytest.raises(DistillensError, match=r"lacks rows, and was filled by another engine"):
        Run(path)
    with pytest.raises(DistillensError, match=r"filled by another engine \(dtype of the teacher"):
        fill(path, model_args={"dtype": "bfloat16"})
    assert main(["cache", str(path), "--model", "vllm"]) == 2
    assert "was filled by hf, and two engines are never mixed" in capsys.readouterr().err


def test_a_recipe_that_reads_fewer_layers_reads_it_and_adds_nothing(filled, tmp_path):
    path = spare(filled, tmp_path)
    fewer = [f"{LENS}.layers={json.dumps({'student': [1], 'teacher': [2]})}"]
    assert "nothing was missing" in fill(path, overrides=fewer)
    assert choose(path, fewer)
    forget_a_shard(tmp_path / "cache")
    for refused in (fill, choose):
        with pytest.raises(DistillensError, match="holds states that this recipe does not read"):
            refused(path, overrides=fewer)
    assert "the cache is full" in fill(path)


def test_nor_does_it_where_another_fill_began_the_cache_while_its_engine_started(
    tmp_path, monkeypatch
):
    path = cached_recipe(tmp_path)
    fewer = [f"{LENS}.layers={json.dumps({'student': [1], 'teacher': [2]})}"]
    make_engine = filling.make_engine

    def make_slowly(name, order):
        monkeypatch.setattr(filling, "make_engine", make_engine)
        fill(path, part=Part(1, 2))
        return make_engine(name, order)

    monkeypatch.setattr(filling, "make_engine", make_slowly)
    with pytest.raises(DistillensError, match="holds states that this recipe does not read"):
        fill(path, overrides=fewer)
    states, rows = stored(tmp_path / "cache")
    assert len(rows) == 12
    assert all(len(found) == 3 for found in states.values())


def choose(path, overrides):
    recipe = load_recipe(str(path), overrides)
    return needs_readout_alone(recipe, load_data(recipe)[1])


def test_a_patch_release_may_go_on_and_a_minor_one_may_not(filled, tmp_path):
    path = spare(filled, tmp_path)
    forget_a_shard(tmp_path / "cache")
    file = tmp_path / "cache" / "fingerprint.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    major, minor, *_ = fields["engine"]["version"].split(".")
    fields["engine"]["version"] = f"{major}.{int(minor) + 1}.0"
    file.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(DistillensError, match=r"another engine \(version: "):
        fill(path)
    fields["engine"]["version"] = f"{major}.{minor}.99"
    file.write_text(json.dumps(fields), encoding="utf-8")
    assert "the cache is full" in fill(path)


def test_a_runs_own_cache_is_not_topped_up(trained, tmp_path):
    path = spare(trained[0], tmp_path)
    with pytest.raises(DistillensError, match="is filled by runs in their first epoch"):
        fill(path)


def test_the_limit_is_checked_before_and_holds_for_what_lies_there(filled, tmp_path):
    assert main(["cache", str(filled / "recipe.yaml"), "--max_gb", "0.0001"]) == 2
    path = cached_recipe(tmp_path)
    # Rows that were stored twice leave too little room for the last ones.
    fill(path, part=Part(1, 2))
    shard = shard_paths(tmp_path / "cache")[0]
    for number in range(2):
        twice = shard.with_name(f"shard-twice-{number:05d}.safetensors")
        shutil.copy(shard, twice)
        shutil.copy(shard.with_suffix(".json"), twice.with_suffix(".json"))
    with pytest.raises(DistillensError, match=r"more than max_gb = 0\.0004"):
        fill(path, overrides=["teacher_cache.max_gb=0.0004"])
    with pytest.raises(RunFailure, match=r"the next rows need .* but max_gb = 0\.00055"):
        fill(path, overrides=["teacher_cache.max_gb=0.00055"])
