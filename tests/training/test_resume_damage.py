"""A state with a flipped byte, or a file cut or lost, is never trained on."""

import json
import shutil

import pytest
import torch
from forked_run import forked, kill_after_states, quick_recipe, what_it_left

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.training.resume import find_kept
from eval_harness.errors import DistillensError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A recipe, what its run left, and the folder of a run killed after its second state."""
    folder = tmp_path_factory.mktemp("damage")
    path = quick_recipe(folder)
    done = forked(path, output=folder / "out", log=folder / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    whole = what_it_left(folder / "out")
    shutil.rmtree(folder / "out")
    ended = forked(path, output=folder / "out", log=folder / "log", before=kill_after_states(2))
    assert ended.returncode == -9
    (folder / "out").rename(folder / "cut")
    return path, whole, folder / "cut"


@pytest.fixture
def cut(runs):
    """The killed run, in the place where it ran; its recipe, and what it should come to."""
    path, whole, kept = runs
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(kept, out)
    return path, whole, out


def resumed(path, out, *arguments):
    return forked(path, "--resume", *arguments, output=out, log=path.parent / "log")


def files(state):
    return sorted(path for path in state.iterdir())


def damages(content):
    """(what was done, the damaged content; None for no file at all)."""
    middle = len(content) // 2
    flipped = bytearray(content)
    flipped[middle] ^= 16
    return {"flipped": bytes(flipped), "cut": content[:middle], "lost": None}


def damage(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_every_damage_to_every_file_is_noticed_and_the_state_before_is_taken(cut):
    path, _, out = cut
    recipe = to_yaml(load_recipe(path).to_plain())
    names = {file.name for file in files(out / "state")}
    assert {"model.safetensors", "optimizer.safetensors", "random.json", "manifest.json"} <= names
    assert {file.name for file in files(out / "state_before")} == names
    assert not any(name.endswith((".bin", ".pkl", ".pt")) for name in names)
    assert find_kept(out, recipe, 1).standing.epoch == 2
    cases = 0
    for file in files(out / "state"):
        content = file.read_bytes()
        for what, damaged in damages(content).items():
            damage(file, damaged)
            kept = find_kept(out, recipe, 1)
            assert kept.standing.epoch == 1, (file.name, what)
            assert kept.state == out / "state_before"
            (line,) = kept.lines
            assert file.name in line
            assert "resuming from the one before" in line
            file.write_bytes(content)
            cases += 1
    assert cases == 3 * len(names) >= 30


def test_both_states_damaged_is_refused_and_names_the_files(cut):
    path, _, out = cut
    (out / "state" / "model.safetensors").write_bytes(b"")
    (out / "state_before" / "random.json").unlink()
    before = {file: file.read_bytes() for file in files(out / "state")}
    done = resumed(path, out)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().split("\n")
    assert "state: model.safetensors has 0 bytes, expected" in line
    assert "state_before: random.json is missing" in line
    assert "--overwrite" in line
    assert {file: file.read_bytes() for file in files(out / "state")} == before


def test_a_run_gone_on_with_from_the_state_before_ends_with_the_very_weights(cut):
    path, whole, out = cut
    weights = out / "state" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    done = resumed(path, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "model.safetensors has been changed or damaged (its SHA-256 differs)" in done.stdout
    assert "resuming after epoch 1, step 2" in done.stdout
    assert what_it_left(out) == whole


@pytest.mark.parametrize("name", ["metrics.jsonl", "recipe.yaml", "fingerprint.json"])
def test_records_that_were_damaged_are_put_back(cut, name):
    path, whole, out = cut
    content = (out / name).read_bytes()
    for damaged in damages(content).values():
        damage(out / name, damaged)
        done = resumed(path, out)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"{out / name}: was damaged or missing; restored" in done.stdout
        assert what_it_left(out) == whole
        shutil.rmtree(out)
        shutil.copytree(path.parent / "cut", out)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_model_that_is_lost_or_lies_aside_is_there_again(cut, name):
    path, whole, out = cut
    (out / name).rename(out / f".{name}.replaced")
    (out / f".{name}.partial").mkdir()
    done = resumed(path, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{out / name}: had been set aside" in done.stdout
    assert what_it_left(out) == whole


def test_a_best_of_an_earlier_step_that_is_lost_is_refused(cut):
    path, _, out = cut
    # From the newest state alone, as if the first epoch had been the best one.
    from distillens_plugin.storage.kept_state import FORM
    from distillens_plugin.storage.manifest import write_manifest

    standing = json.loads((out / "state" / "standing.json").read_text(encoding="utf-8"))
    standing["history"]["best_step"] = 2
    (out / "state" / "standing.json").write_text(json.dumps(standing), encoding="utf-8")
    write_manifest(out / "state", FORM)
    shutil.rmtree(out / "best")
    done = resumed(path, out)
    assert done.returncode == 2
    assert "best is missing or empty, and step 2 was the best so far" in done.stderr


def test_a_state_of_the_old_form_is_refused_with_its_reason(cut):
    path, _, out = cut
    for state in (out / "state", out / "state_before"):
        shutil.rmtree(state)
    (out / "state").mkdir()
    torch.save({"loss": {}}, out / "state" / "extra.pt")
    done = resumed(path, out)
    assert done.returncode == 2
    assert "kept by an older version as a pickle (extra.pt)" in done.stderr
    assert "--overwrite" in done.stderr


def test_damaged_records_of_a_finished_run_are_refused(cut):
    path, _, out = cut
    recipe = to_yaml(load_recipe(path).to_plain())
    (out / "summary.json").write_text('{"num_steps": 6}', encoding="utf-8")
    kept = find_kept(out, recipe, 1)
    assert kept.finished
    assert kept.fingerprint is not None
    assert not (out / "state").exists()
    for name in ("summary.json", "fingerprint.json", "recipe.yaml"):
        content = (out / name).read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"[]", b"\xff"):
            (out / name).write_bytes(damaged)
            with pytest.raises(DistillensError, match=name) as error:
                find_kept(out, recipe, 1)
            assert error.value.exit_code == 2
        (out / name).write_bytes(content)
    (out / "fingerprint.json").unlink()
    assert find_kept(out, recipe, 1).fingerprint is None  # as an older version left it


def test_without_a_state_a_damaged_recipe_is_refused(cut):
    path, _, out = cut
    for state in (out / "state", out / "state_before"):
        shutil.rmtree(state)
    recipe = to_yaml(load_recipe(path).to_plain())
    text = (out / "recipe.yaml").read_text(encoding="utf-8")
    for damaged in (
        "",
        "[",
        text[: len(text) // 2],
        "models: {a: b",
        text.replace("0.002", "0.003"),
    ):
        (out / "recipe.yaml").write_text(damaged, encoding="utf-8")
        with pytest.raises(DistillensError, match=r"recipe\.yaml") as error:
            find_kept(out, recipe, 1)
        assert error.value.exit_code == 2
    (out / "recipe.yaml").unlink()
    with pytest.raises(DistillensError, match=r"recipe\.yaml is missing"):
        find_kept(out, recipe, 1)
