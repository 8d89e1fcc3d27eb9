"""`packing: true` in whole runs: counts, resuming, the teacher cache, two processes."""

import json
import shutil

import pytest
from forked_run import forked, kill_after_states, quick_recipe, what_it_left
from run_process import TWO_PROCESSES, change, distillens, records
from tiny_run import tiny_recipe
from torchdistill.datasets.registry import COLLATE_FUNC_DICT

from distillens_plugin.data.collate import collate
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main
from distillens_plugin.teacher_cache import attach_teacher_cache
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows

LOADER = "train.train_data_loader"
IN_ORDER = "sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}"


def packed_recipe(folder, *, batch_size=2, in_order=False):
    """The tiny recipe without dropout, on 24 rows of up to 30 tokens in packs of up to 64."""
    path = tiny_recipe(folder)
    rows = [
        {"instruction": f"What is {n}{' and 1' * (n % 7)}?", "output": f"{n + n % 7}"}
        for n in range(24)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    train = {"path": "./train.jsonl", "template": "question", "max_length": 64}
    change(path, "datasets.train", {**train, "max_prompt_length": 48})
    change(path, "datasets.validation", {"path": "./train.jsonl", "num_rows": 4})
    change(path, "samples.num_rows", 0)
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        change(path, f"models.student_model.init.config.{key}", 0.0)
    change(path, f"{LOADER}.packing", True)
    change(path, f"{LOADER}.kwargs.batch_size", batch_size)
    if in_order:
        text = path.read_text(encoding="utf-8")
        text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {IN_ORDER}\n")
        assert IN_ORDER in text
        path.write_text(text, encoding="utf-8")
    return path


def one_epoch(path, *overrides, cache=False):
    """Loss, supervised tokens and tokens of each step, the rows seen, and the experiment."""
    recipe = load_recipe(str(path), overrides=list(overrides))
    accelerator = make_accelerator(recipe, tracker_folder=None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    cached = attach_teacher_cache(experiment) if cache else None
    box = experiment.box
    trainer = Trainer(box, accelerator)
    box.pre_epoch_process(epoch=0)
    steps, rows = [], []
    for window in windows(box.train_data_loader, box.grad_accum_step, accelerator):
        rows += [row for _, targets in window.batches for row in targets["row_ids"]]
        steps.append(trainer.step(window))
    box.post_epoch_process()
    if cached is not None:
        cached.close()
    return steps, rows, experiment


def test_an_epoch_sees_every_row_and_token_once(tmp_path, capsys):
    steps, rows, experiment = one_epoch(packed_recipe(tmp_path))
    train = experiment.train
    assert sorted(rows) == sorted(row.id for row in train.rows)
    assert sum(step.num_tokens for step in steps) == sum(train.lengths)
    assert sum(step.num_supervised for step in steps) == train.counts.supervised_tokens
    packs = len(experiment.box.train_data_loader.dataset)
    assert packs < len(train)
    assert experiment.steps_per_epoch == len(steps) == -(-packs // 2)
    assert f"packing: 24 rows in {packs} packs of up to 64 tokens, " in capsys.readouterr().out


def test_one_step_over_all_packs_has_the_loss_of_one_over_all_rows(tmp_path):
    everything = f"{LOADER}.kwargs.batch_size=24"
    (packed,), *_ = one_epoch(packed_recipe(tmp_path), everything)
    (padded,), *_ = one_epoch(packed_recipe(tmp_path), everything, f"{LOADER}.packing=false")
    assert packed.loss == pytest.approx(padded.loss, abs=1e-5)
    assert packed.values == pytest.approx(padded.values, abs=1e-5)
    assert packed.grad_norm == pytest.approx(padded.grad_norm, abs=1e-5)
    assert (packed.num_tokens, packed.num_supervised) == (padded.num_tokens, padded.num_supervised)


def test_a_cache_that_padded_rows_filled_serves_packs_and_the_other_way_round(tmp_path):
    def cached(*overrides):
        place = f"teacher_cache.path={tmp_path / 'cache'}"
        *_, experiment = result = one_epoch(packed_recipe(tmp_path), *overrides, place, cache=True)
        return result[0], experiment.box.teacher_forward_proc.num_teacher_batches

    live, *_ = one_epoch(packed_recipe(tmp_path))
    filled, num_filling = cached()
    read, num_reading = cached()
    assert (num_filling, num_reading) == (len(live), 0)
    padded, num_padded = cached(f"{LOADER}.packing=false", f"{LOADER}.kwargs.batch_size=8")
    assert num_padded == 0
    for steps in (filled, read):
        assert [s.loss for s in steps] == pytest.approx([s.loss for s in live], rel=2**-7)
    shutil.rmtree(tmp_path / "cache")
    again, num_padded = cached(f"{LOADER}.packing=false", f"{LOADER}.kwargs.batch_size=8")
    assert num_padded == len(again) == 3
    assert [s.loss for s in again] == pytest.approx([s.loss for s in padded], rel=1e-5)
    read, num_reading = cached()
    assert num_reading == 0
    assert [s.loss for s in read] == pytest.approx([s.loss for s in filled], rel=1e-5)


def test_a_killed_run_meets_the_same_packs(tmp_path):
    path = quick_recipe(tmp_path)
    change(path, f"{LOADER}.packing", True)
    change(path, f"{LOADER}.kwargs.batch_size", 1)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "packing: " in done.stdout
    whole = what_it_left(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert forked(path, **place, before=kill_after_states(1)).returncode == -9
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert what_it_left(tmp_path / "out") == whole


def test_two_processes_take_the_steps_of_one(tmp_path):
    alone = packed_recipe(tmp_path / "one", batch_size=2, in_order=True)
    shared = packed_recipe(tmp_path / "two", batch_size=1, in_order=True)
    for done in (
        forked(alone, output=tmp_path / "one" / "out"),
        distillens(shared, launcher=TWO_PROCESSES),
    ):
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("packing: ") == 1
    one, two = (
        [record for record in records(path.parent / "out") if "kd" in record]
        for path in (alone, shared)
    )
    # An odd pack at the end is dealt out twice, as accelerate evens out all batches.
    assert len(one) == len(two) > 2
    for left, right in list(zip(one, two, strict=True))[:-1]:
        assert right["num_supervised"] == left["num_supervised"]
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-4)
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train.on_policy": {"share": 0.5, "max_new_tokens": 5}},
            "train.train_data_loader.packing: newly sampled answers (on_policy) have other lengths",
        ),
        (
            {f"{LOADER}.collate_fn": "mine"},
            "train.train_data_loader.collate_fn: packing needs distillens.collate, found mine;",
        ),
        (
            {
                "models.student_model.init.config": {
                    "model_type": "opt",
                    "num_hidden_layers": 2,
                    "hidden_size": 24,
                    "word_embed_proj_dim": 24,
                    "ffn_dim": 32,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 256,
                }
            },
            "train.train_data_loader.packing: the student, a OPTForCausalLM, lets a packed row see",
        ),
    ],
    ids=["on-policy", "collate", "opt"],
)
def test_what_packing_does_not_go_with_is_one_line(
    tmp_path, capsys, monkeypatch, settings, message
):
    monkeypatch.setitem(COLLATE_FUNC_DICT, "mine", collate)
    path = packed_recipe(tmp_path)
    for key, value in settings.items():
        change(path, key, value)
    assert main([str(path), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_full_form_says_that_a_box_by_itself_pads(tmp_path, capsys):
    assert main([str(packed_recipe(tmp_path)), "--validate", "--print"]) == 0
    printed = capsys.readouterr().out
    assert "# train_data_loader.packing is the runner's own" in printed
    assert "packing: true" not in printed
