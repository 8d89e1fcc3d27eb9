"""A full cache and recipes that read fewer of its layers."""

import json

import pytest
from cached_run import LENS, Run, agree, cached_recipe, folder_bytes

from distillens_plugin.run import main
from distillens_plugin.teacher_cache import attach
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import DistillensError

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
