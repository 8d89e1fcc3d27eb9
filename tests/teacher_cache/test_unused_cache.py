"""A cache without a row binds nobody: whoever failed before the first one leaves it to others."""

import json

import pytest
from cached_run import Run, cached_recipe

from distillens_plugin.cli import main
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main as run
from distillens_plugin.teacher_cache.choice import needs_readout_alone, num_lacking
from distillens_plugin.teacher_cache.fill import engines
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
from distillens_plugin.teacher_cache.fill.rows import Part
from distillens_plugin.teacher_cache.fill.transformers_engine import TransformersEngine
from distillens_plugin.teacher_cache.fingerprint import FINGERPRINT, engine_of, read_fingerprint
from distillens_plugin.teacher_cache.folder import forget_leftover
from distillens_plugin.teacher_cache.shards import shard_paths
from eval_harness.errors import DistillensError, RunFailure

BFLOAT16 = {"dtype": "bfloat16"}


class OutOfMemory(TransformersEngine):
    def states(self, rows, layers):
        raise RunFailure("out of memory")
        yield


def fill(path, **arguments):
    return fill_cache(load_recipe(str(path)), FillSettings("hf", model_args=arguments))


def use(monkeypatch, engine):
    monkeypatch.setitem(
        engines.ENGINES,
        "hf",
        lambda order: engine(order.recipe, order.arguments, batch_size=8),
    )


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A recipe whose cache an engine of another type has claimed, and then given no row."""
    path = cached_recipe(tmp_path)
    with monkeypatch.context() as patch:
        use(patch, OutOfMemory)
        with pytest.raises(RunFailure, match="out of memory"):
            fill(path, **BFLOAT16)
    assert engine_of(read_fingerprint(tmp_path / "cache"))["dtype"] == "bfloat16"
    assert shard_paths(tmp_path / "cache") == []
    return path


def test_another_engine_fills_what_one_has_left_without_a_row(begun):
    fill_cache(load_recipe(str(begun)), FillSettings("hf", part=Part(1, 2)))
    assert engine_of(read_fingerprint(begun.parent / "cache"))["dtype"] == "float32"
    # From the first row on it is that engine's.
    with pytest.raises(DistillensError, match="was filled by another engine"):
        fill(begun, **BFLOAT16)
    assert "the cache is full" in fill(begun)


def test_a_run_takes_it_too_and_leaves_it_to_others_itself(begun, capsys):
    cache = begun.parent / "cache"
    (cache / "shard-killed-00000.partial").write_bytes(b"half")
    recipe = load_recipe(str(begun))
    assert not needs_readout_alone(recipe, load_data(recipe)[1])
    assert num_lacking(recipe) == 23
    assert run([str(begun), "--validate"]) == 0
    assert f"{cache} holds no states yet; the whole teacher is loaded" in capsys.readouterr().out
    Run(begun).close()
    assert engine_of(read_fingerprint(cache))["engine"] == "training"
    other = Run(begun, overrides=["models.teacher_model.dtype=bfloat16"])
    other.close()
    assert engine_of(read_fingerprint(cache))["dtype"] == "bfloat16"
    assert "the cache is full" in fill(begun)


def test_other_rows_or_layers_are_not_refused_for_the_sake_of_no_row(begun):
    line = ["cache", str(begun), "--set", "datasets.train.num_rows=8"]
    assert main(line) == 0


def test_whoever_is_at_work_has_it_though_no_row_is_stored_yet(tmp_path, monkeypatch):
    path = cached_recipe(tmp_path)
    refused = []

    class Slow(TransformersEngine):
        def states(self, rows, layers):
            with pytest.raises(DistillensError, match="filled by another engine") as caught:
                fill(path, **BFLOAT16)
            refused.append(caught.value)
            yield from super().states(rows, layers)

    use(monkeypatch, Slow)
    assert "the cache is full" in fill(path)
    assert len(refused) == 1
    assert engine_of(read_fingerprint(tmp_path / "cache"))["dtype"] == "float32"


def test_where_no_lock_holds_others_off_the_second_to_store_is_refused(tmp_path, monkeypatch):
    path = cached_recipe(tmp_path)
    file = tmp_path / "cache" / FINGERPRINT

    class Overtaken(TransformersEngine):
        def states(self, rows, layers):
            # A fill that believed itself alone as well.
            fields = json.loads(file.read_text(encoding="utf-8"))
            fields["engine"]["dtype"] = "bfloat16"
            file.write_text(json.dumps(fields), encoding="utf-8")
            yield from super().states(rows, layers)

    use(monkeypatch, Overtaken)
    with pytest.raises(DistillensError, match="was filled by another engine"):
        fill(path)
    assert shard_paths(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("content", "others"),
    [
        ({"format": 3, "states": []}, []),  # a later version may keep its rows in other files
        ({"seed": 1}, []),  # of a run's own folder
        ({"format": 2, "states": []}, ["recipe.yaml"]),
        ({"format": 2, "states": []}, ["shard-a-00000.safetensors"]),
    ],
)
def test_a_fingerprint_of_anything_else_stays(tmp_path, content, others):
    (tmp_path / FINGERPRINT).write_text(json.dumps(content), encoding="utf-8")
    for name in others:
        (tmp_path / name).touch()
    forget_leftover(tmp_path)
    assert read_fingerprint(tmp_path) == content


@pytest.mark.parametrize("command", [["--validate"], ["cache"]])
def test_a_later_format_is_refused_by_key_and_folder(tmp_path, capsys, command):
    path = cached_recipe(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FINGERPRINT).write_text('{"format": 3}', encoding="utf-8")
    line = [*command, str(path)]
    assert (main(line) if command == ["cache"] else run(line)) == 2
    error = capsys.readouterr().err
    assert f"teacher_cache.path: {tmp_path / 'cache'}: its format is 3" in error
