"""What a cache was made from: hashed from files, and caches of older versions."""

import shutil

import pytest
import torch
from cached_run import Run, agree, cached_recipe
from safetensors.torch import load_file, save_file
from small_models import small_model

from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache.checkpoint_hash import (
    hash_adapter,
    hash_checkpoint,
    hash_json,
)
from distillens_plugin.teacher_cache.choice import needs_readout_alone
from distillens_plugin.teacher_cache.fingerprint import (
    FINGERPRINT,
    FingerprintOne,
    format_of,
    hash_config,
    hash_rows,
    hash_weights,
)
from distillens_plugin.teacher_cache.shards import shard_paths
from eval_harness.errors import DistillensError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_model("llama").save_pretrained(folder)
    return folder


def test_a_checkpoint_in_other_shards_is_the_same(model, tmp_path):
    small_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert hash_checkpoint(tmp_path) == hash_checkpoint(model)


def test_one_other_number_is_another_checkpoint(model, tmp_path):
    other = small_model("llama")
    with torch.no_grad():
        other.model.norm.weight[3] += 1e-6
    other.save_pretrained(tmp_path)
    assert hash_checkpoint(tmp_path) != hash_checkpoint(model)


def test_another_type_is_another_checkpoint_and_a_changed_file_is_read_again(model, tmp_path):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    before = hash_checkpoint(tmp_path)
    small_model("llama").bfloat16().save_pretrained(tmp_path)
    assert hash_checkpoint(tmp_path) != before


def test_a_pickled_checkpoint_is_hashed_by_content_too(model, tmp_path):
    weights = load_file(model / "model.safetensors")
    hashes = []
    for name, change in (("a", 0.0), ("b", 0.0), ("c", 1e-6)):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(model / "config.json", folder)
        weights["model.norm.weight"][0] += change
        torch.save(weights, folder / "pytorch_model.bin")
        hashes.append(hash_checkpoint(folder))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_configuration_counts_but_not_where_it_came_from(tmp_path):
    texts = ('{"a": 1, "b": 2}', '{"b": 2, "_name_or_path": "x", "a": 1}', '{"a": 1, "b": 3}')
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    assert hash_json(paths[0]) == hash_json(paths[1]) != hash_json(paths[2])


def test_a_later_format_is_refused():
    with pytest.raises(DistillensError, match="KEY: DIR: its format is 3, and this version reads"):
        format_of({"format": 3}, "KEY: DIR")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("kept", [5, 200])
def test_a_truncated_adapter_is_one_line_that_names_its_file(tmp_path, name, kept):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    weights = {"lora_A": torch.ones(64, 64)}
    save = save_file if name.endswith(".safetensors") else torch.save
    save(weights, tmp_path / name)
    assert len(hash_adapter(tmp_path)) == 64
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    with pytest.raises(DistillensError, match=f"{name}: .*file again|{name}: .*it again"):
        hash_adapter(tmp_path)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A cache as older versions wrote it, and the loss terms of its run."""
    folder = tmp_path_factory.mktemp("old")
    run = Run(cached_recipe(folder))
    steps, _ = run.epoch(0)
    run.close()
    experiment = run.experiment
    fingerprint = FingerprintOne(
        teacher=hash_weights(experiment.teacher),
        config=hash_config(experiment.teacher.config),
        rows=hash_rows(experiment.train),
        template="alpaca",
        states=("output:transformer.h.1", "output:transformer.h.3"),
        dtype="bfloat16",
        precision="no",
    )
    (folder / "cache" / FINGERPRINT).write_text(fingerprint.to_json(), encoding="utf-8")
    return folder, steps


def test_a_cache_of_an_older_version_is_read_by_a_run_that_loads_the_whole_teacher(old):
    path = old[0] / "recipe.yaml"
    recipe = load_recipe(str(path))
    assert not needs_readout_alone(recipe, load_data(recipe)[1])
    run = Run(path)
    steps, calls = run.epoch(0)
    run.close()
    assert calls == 0
    agree(steps, old[1], rel=0)
    wanted = load_recipe(str(path), ["teacher_cache.teacher=states_only"])
    with pytest.raises(DistillensError, match=r"was filled by an older version.*teacher: whole"):
        needs_readout_alone(wanted, load_data(wanted)[1])
    with pytest.raises(DistillensError, match="name another path, and fill it"):
        Run(path, states_only=True)


def test_it_is_completed_by_such_a_run_and_refused_to_another_teacher(old, tmp_path):
    shutil.copytree(old[0] / "cache", tmp_path / "cache")
    path = cached_recipe(tmp_path, models__teacher_model__name_or_path=str(old[0] / "teacher"))
    shard_paths(tmp_path / "cache")[0].unlink()
    run = Run(path)
    assert run.epoch(0)[1] == 3
    run.close()
    assert '"format": 1' in (tmp_path / "cache" / FINGERPRINT).read_text(encoding="utf-8")
    with pytest.raises(DistillensError, match="teacher's weights: "):
        Run(path, overrides=["models.teacher_model.dtype=bfloat16"])
