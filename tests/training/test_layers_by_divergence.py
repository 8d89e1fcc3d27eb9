"""Runs whose layers are measured: the pairs are kept with a run, and --resume goes on with them."""

import json
import shutil

import pytest
import yaml
from forked_run import TERMS, forked, kill_after_states, quick_recipe, what_it_left
from run_process import change

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.kept_pairs import kept_text

LAYERS = f"{TERMS}.lens.criterion.kwargs.layers"
STUDENT = {"model_type": "gpt2", "n_layer": 3, "n_embd": 24, "n_head": 2, "n_positions": 256}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a recipe whose layers are measured, and an uninterrupted run."""
    place = tmp_path_factory.mktemp("divergence")
    path = quick_recipe(place, num_epochs=2)
    change(path, "models.student_model.init.config", STUDENT)
    change(path, LAYERS, {"auto": 2, "by": "divergence", "rows": 4})
    done = run(place, "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lens: layers 1-" in done.stdout
    return place


def run(place, name, *flags, recipe=None, **keywords):
    path = recipe or place / "recipe.yaml"
    return forked(path, *flags, output=place / name, log=place / f"{name}-log", **keywords)


def pairs_of(folder):
    return json.loads((folder / "layer_pairs.json").read_text(encoding="utf-8"))


def learnt(folder):
    """The weights and the records of a run."""
    left = what_it_left(folder)
    weights = {name: value for name, value in left.items() if name.endswith(".safetensors")}
    assert {name.partition("/")[0] for name in weights} == {"best", "last"}
    return weights, left["records"]


def interrupted(place, name, **keywords):
    done = run(place, name, before=kill_after_states(1), **keywords)
    assert done.returncode == -9, done.stderr[-3000:]
    return place / name


def test_a_run_keeps_its_pairs_and_what_they_were_chosen_from(place):
    out = place / "whole"
    kept = pairs_of(out)
    record = kept["terms"]["lens"]
    layers = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    for key in LAYERS.split("."):
        layers = layers[key]
    assert layers == {"auto": 2, "by": "divergence", "rows": 4, "measured": record["measured"]}
    assert len(record["rows"]) == 4
    assert record["num_positions"] > 0
    assert (len(record["values"]), len(record["values"][0])) == (2, 3)
    assert kept["measured_on"]["settings"]["lens"]["layers"]["rows"] == 4
    assert kept["measured_on"]["models.teacher_model.name_or_path"].startswith("content ")
    logged = (out / "metrics.jsonl").read_text(encoding="utf-8")
    for pair in zip(*record["measured"].values(), strict=True):
        assert f'"lens/{pair[0]}-{pair[1]}"' in logged


def test_the_stored_recipe_trains_with_the_same_pairs_without_measuring(place):
    copied = shutil.copy(place / "whole" / "recipe.yaml", place / "stored.yaml")
    done = run(place, "again", recipe=copied)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "by divergence" not in done.stdout
    assert not (place / "again" / "layer_pairs.json").exists()
    assert learnt(place / "again") == learnt(place / "whole")


def test_an_overwritten_run_keeps_the_matrix_only_if_it_is_of_the_same_models(place):
    out = place / "whole"
    recipe = load_recipe(str(out / "recipe.yaml"))
    fingerprint = json.loads((out / "fingerprint.json").read_text(encoding="utf-8"))
    text = (out / "layer_pairs.json").read_text(encoding="utf-8")
    assert kept_text(recipe, out, fingerprint) == text
    fingerprint["files"]["models.teacher_model.name_or_path"] = "content 0"
    assert kept_text(recipe, out, fingerprint) is None


def test_resume_takes_the_pairs_of_the_state(place):
    out = interrupted(place, "cut")
    (out / "layer_pairs.json").unlink()
    done = run(place, "cut", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 1" in done.stdout
    assert "by divergence" not in done.stdout
    assert learnt(out) == learnt(place / "whole")
    again = run(place, "cut", "--resume")
    assert (again.returncode, "already finished" in again.stdout) == (0, True)


def test_resume_refuses_other_settings_of_the_choice(place):
    out = interrupted(place, "other")
    refused = run(place, "other", "--resume", "--set", f"{LAYERS}.rows=5")
    assert refused.returncode == 2
    assert f"{LAYERS}.rows was 4 and is 5" in refused.stderr
    named = "{student: [1, 2], teacher: [2, 3]}"
    kept = pairs_of(out)["terms"]["lens"]["measured"]
    if kept["teacher"] == [2, 3]:
        named = "{student: [1, 2], teacher: [1, 2]}"
    refused = run(place, "other", "--resume", "--set", f"{LAYERS}.measured={named}")
    assert refused.returncode == 2
    assert f"{LAYERS}.measured.teacher was" in refused.stderr


def without_state(place, name):
    """A run that ended after it had begun, and before it kept a state."""
    out = interrupted(place, name)
    for state in ("state", "state_before", "last", "best"):
        shutil.rmtree(out / state, ignore_errors=True)
    return out


def test_without_a_state_the_measurement_is_used_again_if_it_still_fits(place):
    out = without_state(place, "early")
    before = (out / "layer_pairs.json").read_bytes()
    done = run(place, "early", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lens: the layers were measured when the run began" in done.stdout
    assert "by divergence" not in done.stdout
    assert (out / "layer_pairs.json").read_bytes() == before
    assert learnt(out) == learnt(place / "whole")


@pytest.mark.parametrize("damage", ["rows", "text"])
def test_without_a_state_what_no_longer_fits_is_measured_again(place, damage):
    out = without_state(place, f"early_{damage}")
    file = out / "layer_pairs.json"
    if damage == "text":
        file.write_text("{", encoding="utf-8")
        told = "cannot be read (JSONDecodeError); measuring the layers again"
    else:
        content = pairs_of(out)
        content["measured_on"]["datasets.train"] = "0" * 64
        file.write_text(json.dumps(content), encoding="utf-8")
        told = "datasets.train has other rows than those that were measured"
    done = run(place, out.name, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert told in done.stdout
    assert "by divergence: jsd" in done.stdout
    kept, whole = pairs_of(out), pairs_of(place / "whole")
    for content in (kept, whole):
        content["terms"]["lens"].pop("seconds")
    assert kept == whole
