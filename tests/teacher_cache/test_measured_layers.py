"""A teacher cache and layers that are measured, which it has to know before it is filled."""

import pytest
from forked_run import TERMS, forked, quick_recipe
from run_process import change, records

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache import describe_choice
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
from eval_harness.errors import DistillensError

LAYERS = f"{TERMS}.lens.criterion.kwargs.layers"
STUDENT = {"model_type": "gpt2", "n_layer": 3, "n_embd": 24, "n_head": 2, "n_positions": 256}


@pytest.fixture
def path(tmp_path):
    path = quick_recipe(tmp_path, num_epochs=1)
    change(path, "models.student_model.init.config", STUDENT)
    change(path, "models.student_model.tokenizer", "./teacher")
    change(path, LAYERS, {"auto": 2, "by": "divergence", "rows": 4})
    change(path, "teacher_cache", {"path": "./cache"})
    return path


def values(folder):
    return [{k: v for k, v in r.items() if k in ("loss", "kd", "lens")} for r in records(folder)]


def test_a_run_measures_and_fills_and_its_recipe_needs_the_readout_alone(path):
    first = forked(path, output=path.parent / "first")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "by divergence: jsd" in first.stdout
    stored = path.parent / "first" / "recipe.yaml"
    second = forked(stored, output=path.parent / "second")
    assert second.returncode == 0, second.stderr[-3000:]
    assert "the teacher will not run" in second.stdout
    assert "teacher: states only" in second.stdout
    for own, theirs in zip(
        values(path.parent / "second"), values(path.parent / "first"), strict=True
    ):
        assert own == pytest.approx(theirs, rel=1e-2)
    # As it was given, it measures again with the whole teacher, and finds its states.
    third = forked(path, output=path.parent / "third")
    assert third.returncode == 0, third.stderr[-3000:]
    assert "the teacher will not run" in third.stdout
    assert "by divergence: jsd" in third.stdout


def test_who_cannot_measure_says_what_to_do(path):
    recipe = load_recipe(path)
    with pytest.raises(DistillensError, match="not yet measured") as refused:
        fill_cache(recipe, FillSettings(model="hf"))
    assert f"distillens run {path} --dry-run" in str(refused.value)
    (path.parent / "cache").mkdir()
    (path.parent / "cache" / "fingerprint.json").write_text("{}", encoding="utf-8")
    assert "the layers of lens are to be measured" in describe_choice(recipe)
    only = load_recipe(path, ["teacher_cache.teacher=states_only"])
    with pytest.raises(DistillensError, match=r"teacher_cache\.teacher: the layers of lens are"):
        describe_choice(only)
