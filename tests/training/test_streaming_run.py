"""Runs over a stream: the losses of a run over the same rows, and resuming to the same rows."""

import json
import shutil

import pytest
from forked_run import forked, kill_after_states, quick_recipe, what_it_left
from run_process import TWO_PROCESSES, change, distillens, records

from distillens_plugin.data import streaming
from distillens_plugin.preflight import validate
from distillens_plugin.prepare.teacher_answers import Generation, generate
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.storage.kept_state import read_standing
from eval_harness.errors import DistillensError

IN_ORDER = "sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}"


def streamed_recipe(folder, *, num_steps=6, steps_per_epoch=2, **data):
    path = quick_recipe(folder)
    change(path, "train.num_epochs", None)
    change(path, "train.num_steps", num_steps)
    change(path, "train.steps_per_epoch", steps_per_epoch)
    for key, value in {"streaming": True, **data}.items():
        change(path, f"datasets.train.{key}", value)
    return path


def without_dropout(path):
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        change(path, f"models.student_model.init.config.{key}", 0.0)


def losses(folder):
    return [record["loss"] for record in records(folder) if "loss" in record]


def test_the_first_steps_have_the_losses_of_the_rows_read_whole(tmp_path):
    path = streamed_recipe(tmp_path, num_steps=2, shuffle_buffer=0)
    without_dropout(path)
    done = forked(path, output=tmp_path / "streamed", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all are read in order" in done.stdout
    assert "rows read" in (tmp_path / "streamed" / "last" / "README.md").read_text("utf-8")
    path = quick_recipe(tmp_path, num_epochs=1)
    without_dropout(path)
    text = path.read_text(encoding="utf-8")
    text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {IN_ORDER}\n")
    assert IN_ORDER in text
    path.write_text(text, encoding="utf-8")
    done = forked(path, output=tmp_path / "whole", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "streamed") == losses(tmp_path / "whole")


def cut_off(folder, **data):
    """A run over a stream, killed within its second epoch; 7 steps are more than 3 passes."""
    path = streamed_recipe(folder, num_steps=7, shuffle_buffer=4, **data)
    change(path, "train.optimizer.grad_accum_step", 2)
    change(path, "train.train_data_loader.kwargs.batch_size", 2)
    change(path, "train.save_every", 1)
    ended = forked(path, output=folder / "out", log=folder / "log", before=kill_after_states(3))
    assert ended.returncode == -9, ended.stderr
    return path


def test_a_killed_run_goes_on_with_the_very_rows(tmp_path):
    path = cut_off(tmp_path)
    assert read_standing(tmp_path / "out" / "state").stream[0]["num_batches"] == 6
    done = forked(path, "--resume", output=tmp_path / "out", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reading the rows of 3 steps again" in done.stdout
    resumed = what_it_left(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    done = forked(path, output=tmp_path / "out", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    assert what_it_left(tmp_path / "out") == resumed
    assert len(losses(tmp_path / "out")) == 7


OTHER = "was trained on other rows of the stream"


@pytest.mark.parametrize(
    ("first_rows", "line", "row", "wanted"),
    [
        (1000, 4, "answer", "other content"),
        (2, 4, "answer", OTHER),
        (2, 4, "no JSON", "train.jsonl:5:1: "),
        (2, None, None, None),
    ],
)
def test_other_rows_than_those_trained_on_are_refused(tmp_path, first_rows, line, row, wanted):
    """Among the first rows, before models load; later ones, when they are read again."""

    def read_only_the_first():
        streaming.FIRST_ROWS = validate.FIRST_ROWS = first_rows

    def kill_then():
        read_only_the_first()
        kill_after_states(1)()

    path = streamed_recipe(tmp_path, shuffle_buffer=0)
    ways = {"output": tmp_path / "out", "log": tmp_path / "log"}
    assert forked(path, **ways, before=kill_then).returncode == -9
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    if line is None:
        rows.append(rows[0])
    elif row == "answer":
        rows[line] = json.dumps({**json.loads(rows[line]), "output": "Something else."})
    else:
        rows[line] = row
    (tmp_path / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    kept = {file: file.read_bytes() for file in (tmp_path / "out" / "state").iterdir()}
    done = forked(path, "--resume", **ways, before=read_only_the_first)
    if line is None:
        # The new last row had not been read by then.
        assert done.returncode == 0, done.stderr[-3000:]
        return
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-3000:]
    assert wanted in done.stderr.splitlines()[-1]
    assert ("student:" in done.stdout) == (first_rows <= line)
    assert {file: file.read_bytes() for file in (tmp_path / "out" / "state").iterdir()} == kept


def test_two_processes_take_the_same_rows_in_each_step(tmp_path):
    path = streamed_recipe(tmp_path, num_steps=3, shuffle_buffer=3)
    without_dropout(path)
    change(path, "train.train_data_loader.kwargs.batch_size", 4)
    done = forked(path, output=tmp_path / "one", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    change(path, "train.train_data_loader.kwargs.batch_size", 2)
    done = distillens(path, "--output_dir", tmp_path / "two", launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-5)


def test_a_tail_is_neither_validated_nor_tried(tmp_path):
    path = streamed_recipe(tmp_path, num_steps=2)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8") * 300
    (tmp_path / "train.jsonl").write_text(lines + "no JSON", encoding="utf-8")
    for flag, told in (("--validate", "its first 1000 rows; streamed"), ("--dry-run", "loss:")):
        done = forked(path, flag, output=tmp_path / "out", log=tmp_path / "log")
        assert done.returncode == 0, done.stderr[-3000:]
        assert told in done.stdout


def test_a_malformed_row_ends_the_run_at_its_turn_and_mended_it_goes_on(tmp_path):
    def read_only_the_first():
        streaming.FIRST_ROWS = validate.FIRST_ROWS = 2

    path = streamed_recipe(tmp_path, shuffle_buffer=0)
    change(path, "train.train_data_loader.kwargs.batch_size", 8)
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines() * 10
    (tmp_path / "train.jsonl").write_text("\n".join([*rows, "no JSON"]), encoding="utf-8")
    ways = {"output": tmp_path / "out", "log": tmp_path / "log", "before": read_only_the_first}
    done = forked(path, **ways)
    # A failure while running, though the mistake is the user's.
    assert done.returncode == 1, done.stderr[-3000:]
    assert "train.jsonl:61:1: " in done.stderr.splitlines()[-1]
    assert read_standing(tmp_path / "out" / "state").step == 4
    (tmp_path / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    done = forked(path, "--resume", **ways)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 2, step 4" in done.stdout


def with_keys(path, keys):
    for key, value in keys.items():
        change(path, key, value)
    return path


LOADER = "train.train_data_loader"
CONFLICTS = {
    "num_epochs": ({"train.num_epochs": 1, "train.num_steps": None}, "num_epochs: found num_ep"),
    "batch_sampler": (
        {f"{LOADER}.batch_sampler": {"key": "distillens.length_grouped"}},
        "batch_sampler: a stream has its own order",
    ),
    "workers": ({f"{LOADER}.kwargs.num_workers": 1}, "num_workers: a stream is read by the"),
    "pinned": ({f"{LOADER}.kwargs.pin_memory": True}, "pin_memory: a stream is read by the"),
    "packing": ({f"{LOADER}.packing": True}, "packing: rows of a stream are not packed"),
    "cache": ({"teacher_cache": {"path": "./c"}}, "teacher_cache: a stream's rows are not known"),
    "on_policy": ({"train.on_policy": {"share": 0.5}}, "on_policy: a stream's prompts are not"),
    "validation": (
        {"datasets.validation.streaming": True},
        "validation.streaming: validation compares the same rows",
    ),
    "no stream": (
        {"datasets.train.streaming": False},
        "steps_per_epoch: an epoch's steps follow from the data",
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_keys_that_need_all_rows_are_refused(tmp_path, case):
    keys, told = CONFLICTS[case]
    path = with_keys(streamed_recipe(tmp_path), keys)
    with pytest.raises(DistillensError, match=told) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_sampler_of_ones_own_is_refused(tmp_path):
    path = streamed_recipe(tmp_path)
    text = path.read_text(encoding="utf-8")
    text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {IN_ORDER}\n")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DistillensError, match="sampler: a stream has its own order"):
        load_recipe(path)


def test_rows_longer_than_the_positions_are_refused_though_they_are_not_known(tmp_path):
    path = streamed_recipe(tmp_path, max_length=300)
    done = forked(path, "--dry-run", output=tmp_path / "out", log=tmp_path / "log")
    assert done.returncode == 2, done.stdout
    assert "rows of the stream may have 300 tokens, but the student has 256" in done.stderr


def test_answers_of_a_teacher_need_all_prompts(tmp_path):
    path = streamed_recipe(tmp_path)
    recipe = load_recipe(path)
    with pytest.raises(DistillensError, match="streaming: the prompts are read before the first"):
        generate(recipe, tmp_path / "answers.jsonl", Generation())
    assert not (tmp_path / "answers.answers").exists()


def test_the_full_form_says_that_a_box_by_itself_would_read_on(tmp_path):
    path = streamed_recipe(tmp_path)
    done = forked(path, "--validate", "--print", output=tmp_path / "out", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert "# a stream is the runner's own loader" in done.stdout
    assert "distillens_plugin.data.streaming.NoSampler" in done.stdout
