"""A run does not resume when what it learns from has changed under the same paths."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forked_run import forked, kill_after_states, quick_recipe
from run_process import change
from safetensors.torch import load_file, save_file
from tiny_run import save_tiny_model

from distillens_plugin.storage import fingerprint
from distillens_plugin.storage.fingerprint import check_same_inputs
from distillens_plugin.training.resume import _check_same_recipe
from eval_harness.errors import DistillensError


def rewrite(path, edit):
    """Edits the rows of a JSON Lines file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    path.write_text("".join(json.dumps(row) + "\n" for row in edit(rows)), encoding="utf-8")


def edited(rows):
    return [{**row, "output": f"A{row['output']}"} if i == 4 else row for i, row in enumerate(rows)]


def new_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a recipe, its models and a run killed after its first state."""
    folder = tmp_path_factory.mktemp("changes")
    path = quick_recipe(folder, num_epochs=2)
    save_tiny_model(folder / "student", layers=2, seed=2)
    change(path, "models.student_model", {"name_or_path": "./student", "tokenizer": "./tokenizer"})
    shutil.copytree(folder / "teacher", folder / "tokenizer")
    (folder / "tokenizer" / "model.safetensors").unlink()
    change(path, "threads", None)
    ended = forked(path, output=folder / "out", log=folder / "log", before=kill_after_states(1))
    assert ended.returncode == -9, ended.stderr
    return folder


@pytest.fixture
def cut(runs):
    """The folder, in the place where it was made; whatever a test does to it is undone."""
    saved = runs.with_name("saved")
    shutil.copytree(runs, saved)
    yield runs
    shutil.rmtree(runs)
    saved.rename(runs)


def resumed(folder, **keywords):
    arguments = (folder / "recipe.yaml", "--resume")
    return forked(*arguments, output=folder / "out", log=folder / "log", **keywords)


ROWS = {
    "edited": (edited, "its rows have other texts or ids"),
    "appended": (lambda rows: [*rows, rows[0]], "6 rows then, 7 now"),
    "fewer": (lambda rows: rows[:-1], "6 rows then, 5 now"),
    "another order": (lambda rows: rows[::-1], "its rows are in another order"),
    "another id": (
        lambda rows: [{**rows[0], "id": "other"}, *rows[1:]],
        "its rows have other texts or ids",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_changed_rows_are_refused_before_models_load(cut, case):
    edit, told = ROWS[case]
    rewrite(cut / "train.jsonl", edit)
    kept = {path: path.read_bytes() for path in (cut / "out").rglob("*") if path.is_file()}
    done = resumed(cut)
    assert done.returncode == 2, done.stderr[-3000:]
    (line,) = done.stderr.strip().split("\n")
    assert f"started with other content (datasets.train: {told})" in line
    assert "--overwrite" in line
    assert "student:" not in done.stdout
    now = {path: path.read_bytes() for path in (cut / "out").rglob("*") if path.is_file()}
    now.pop(cut / "out" / ".lock", None)
    kept.pop(cut / "out" / ".lock", None)
    assert now == kept


def edit_validation(folder):
    rewrite(folder / "valid.jsonl", lambda rows: rows[::-1])


def edit_tokenizer(folder):
    path = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model_max_length"] = 77
    path.write_text(json.dumps(settings), encoding="utf-8")


FILES = {
    "datasets.validation": edit_validation,
    "models.teacher_model.name_or_path": lambda folder: new_weights(folder / "teacher"),
    "models.student_model.name_or_path": lambda folder: new_weights(folder / "student"),
    "models.student_model.tokenizer": edit_tokenizer,
}


@pytest.mark.parametrize("key", FILES)
def test_other_content_under_a_path_is_refused_and_named(cut, key):
    FILES[key](cut)
    done = resumed(cut)
    assert done.returncode == 2, done.stderr[-3000:]
    (line,) = done.stderr.strip().split("\n")
    assert f"started with other content ({key}: " in line
    assert line.count(" then, ") <= 1


def test_what_only_rounds_otherwise_is_told_and_the_run_goes_on(cut):
    def more_threads_and_another_torch():
        from distillens_plugin.storage import fingerprint

        torch.set_num_threads(2)
        known = fingerprint.versions
        fingerprint.versions = lambda: {**known(), "torch": "99.0"}

    done = resumed(cut, before=more_threads_and_another_torch)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.split("\n") if line.startswith("note: changed since")]
    assert "threads 1 then, 2 now" in line
    assert " then, 99.0 now; rounding may differ" in line
    assert "resuming after epoch 1, step 2" in done.stdout


def test_what_did_not_change_is_not_told(cut):
    # The same content, written anew.
    for path in (cut / "teacher").iterdir():
        path.write_bytes(path.read_bytes())
    # Who has just lost steps may want to save more often.
    change(cut / "recipe.yaml", "train.save_every", 1)
    change(cut / "recipe.yaml", "train.keep_last", 1)
    done = resumed(cut)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "note: changed since" not in done.stdout
    again = resumed(cut)
    assert "this run is already finished" in again.stdout
    # A finished run is not taken for one on other data either.
    rewrite(cut / "train.jsonl", edited)
    done = resumed(cut)
    assert done.returncode == 2
    assert "its rows have other texts or ids" in done.stderr


def test_a_model_whose_branch_moved_on_is_resumed_at_its_commit(monkeypatch):
    old, new = "ab" * 20, "cd" * 20
    keys = ("models.teacher_model.name_or_path", "models.student_model.adapter")

    def at(commit):
        return {"data": {}, "files": dict.fromkeys(keys, f"commit {commit}")}

    with pytest.raises(DistillensError) as refused:
        check_same_inputs(at(old), at(new), Path("out"))
    message = str(refused.value)
    wanted = f"commit {old} then, commit {new} now: --set models.teacher_model.revision={old}"
    assert f"(models.teacher_model.name_or_path: {wanted}; " in message
    # peft takes an adapter from the main branch, whatever the revision.
    assert f"models.student_model.adapter: commit {old} then, commit {new} now)" in message
    # An earlier version kept a part of it.
    check_same_inputs(at(old[:12]), at(old), Path("out"))
    with pytest.raises(DistillensError, match="commit abababababab then, commit cdcd"):
        check_same_inputs(at(old[:12]), at(new), Path("out"))
    before = "models: {teacher_model: {name_or_path: a/b}}\n"
    pinned = f"models: {{teacher_model: {{name_or_path: a/b, revision: {old}}}}}\n"
    _check_same_recipe(before, pinned, Path("out"))
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda name, file, revision: f"/cache/snapshots/{revision}/{file}",
    )
    assert fingerprint._content("", "no/folder", old, "config.json") == f"commit {old}"


KEYS_THAT_TEACH_NOTHING = [
    "trackers: [tensorboard]",
    "log_every: 1",
    "threads: 2",
    "validation_terms: false",
    "samples: {num_rows: 0}",
    "train: {val_data_loader: {kwargs: {batch_size: 1}}}",
]


@pytest.mark.parametrize("line", KEYS_THAT_TEACH_NOTHING)
def test_a_key_that_nothing_learned_depends_on_may_change(line):
    # Every recipe has a section `train`.
    before = "train: {}\n" if line.startswith("train") else "{}\n"
    _check_same_recipe(before, f"{line}\n", Path("out"))
    _check_same_recipe(f"{line}\n", before, Path("out"))


def test_the_length_of_answers_may_not_change():
    with pytest.raises(DistillensError, match=r"samples\.max_new_tokens was 8 and is 9"):
        _check_same_recipe(
            "samples: {max_new_tokens: 8}\n", "samples: {max_new_tokens: 9}\n", Path("out")
        )


def test_where_a_teacher_cache_lies_and_how_it_is_read_makes_no_other_recipe():
    folder = Path("out")
    before = "teacher_cache: {path: /a, dtype: bfloat16}\n"
    moved = "teacher_cache: {path: /b, dtype: bfloat16, teacher: states_only, max_gb: 3.0}\n"
    _check_same_recipe(before, moved, folder)
    with pytest.raises(DistillensError, match=r"cache\.dtype was 'bfloat16' and is 'int8'"):
        _check_same_recipe(before, "teacher_cache: {path: /a, dtype: int8}\n", folder)
    with pytest.raises(DistillensError, match=r"teacher_cache was .*'/a'.* and is 'not there'"):
        _check_same_recipe(before, "{}\n", folder)
