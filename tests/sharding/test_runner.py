"""Whole runs with both models in pieces: what DDP gives, and states that others go on with."""

import json
import shutil

import pytest
import torch
from fsdp_on_cpu import ranks
from run_process import change, records
from safetensors.torch import load_file
from tiny_run import tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin.storage.kept_state import read_standing

WITHIN = 1e-5
NAMES = ("fsdp", "ddp")
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def recipe_of(folder, **changes):
    """Two epochs of 3 steps on two processes: windows of two batches of two rows, no dropout."""
    path = tiny_recipe(folder)
    sizes = {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 2, "n_positions": 256}
    defaults = {
        "models.student_model.init.config": {**sizes, **NO_DROPOUT},
        "train.num_epochs": 2,
        "train.train_data_loader.kwargs.batch_size": 2,
        "train.optimizer.grad_accum_step": 2,
        "datasets.validation.num_rows": 5,
        "samples": {"num_rows": 2, "max_new_tokens": 8},
        "report": {"page": False, "max_share": 1},
    }
    for key, value in {**defaults, **changes}.items():
        change(path, key, value)
    return path


def sampling(path):
    """The student answers half of the rows, `best` is chosen by sampled answers; LoRA."""
    change(path, "models.student_model.lora", {"r": 2, "target_modules": ["c_attn"]})
    change(path, "train.on_policy", {"share": 0.5, "max_new_tokens": 6})
    change(path, "train.best_by", "rougeL")
    change(path, "samples.max_new_tokens", 6)
    return path


def cached(path):
    change(path, "teacher_cache", {"path": str(path.parent / "cache")})
    return path


def measuring(path):
    """Its layers are chosen by divergence, of a student with one layer more."""
    change(path, "models.student_model.init.config.n_layer", 3)
    layers = {"auto": 2, "by": "divergence", "rows": 4}
    change(path, "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers", layers)
    change(path, "train.num_epochs", 1)
    change(path, "samples.num_rows", 0)
    return path


def run_all(folder, plan, processes):
    """Exit code and stderr of each run, by name; and stdout of all."""
    (folder / "plan.json").write_text(json.dumps(list(plan.values())), encoding="utf-8")
    done = ranks("sharded_runs.py", folder / "plan.json", folder / "out.json", processes=processes)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    results = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return dict(zip(plan, results, strict=True)), done.stdout


def entry(recipe, output, *flags, **more):
    return {"arguments": [str(recipe), "--output_dir", str(output), *flags], **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of runs by name, started on two processes and then on four."""
    place = tmp_path_factory.mktemp("runs")
    plain = recipe_of(place / "plain")
    own = sampling(recipe_of(place / "own"))
    caches = [cached(recipe_of(place / name)) for name in ("cache", "cache_ddp")]
    measured = measuring(recipe_of(place / "measured"))
    half = shutil.copy(plain, place / "plain" / "half.yaml")
    change(half, "train.optimizer.grad_accum_step", 1)
    disks = [place / "disk_0", place / "disk_1"]
    for disk in disks:
        disk.mkdir()
    plan = {
        "ddp": entry(plain, place / "ddp", sharded=False),
        "fsdp": entry(plain, place / "fsdp"),
        "stop": entry(plain, place / "resumed", stop_after=1),
        "resume": entry(plain, place / "resumed", "--resume"),
        "stop for four": entry(plain, place / "four", stop_after=1),
        "to ddp": entry(plain, place / "to_ddp", stop_after=1),
        "as ddp": entry(plain, place / "to_ddp", "--resume", sharded=False),
        "own ddp": entry(own, place / "own_ddp", sharded=False),
        "own fsdp": entry(own, place / "own_fsdp"),
        "cache": entry(caches[0], place / "cached"),
        "cache ddp": entry(caches[1], place / "cached_ddp", sharded=False),
        "dry": entry(own, place / "dry", "--dry-run"),
        "measured ddp": entry(measured, place / "measured_ddp", sharded=False),
        "measured fsdp": entry(measured, place / "measured_fsdp", one_rank_reads=True),
        "own disks": entry(plain, "out", cwd=[*map(str, disks)]),
    }
    codes, told = run_all(place, plan, 2)
    expected = {name: None if "stop_after" in item else 0 for name, item in plan.items()}
    assert {name: code for name, (code, _) in codes.items()} == {**expected, "own disks": 2}, codes
    (place / "two.json").write_text(json.dumps([told, codes]), encoding="utf-8")
    assert read_standing(place / "four" / "state").num_processes == 2
    plan = {
        "refused": entry(plain, place / "four", "--resume"),
        "four": entry(half, place / "four", "--resume"),
    }
    codes, told = run_all(place, plan, 4)
    assert codes["four"][0] == 0, codes
    (place / "four.json").write_text(json.dumps([told, codes]), encoding="utf-8")
    return place


def outputs(place, processes):
    """What a spawn printed, and exit code and stderr of its runs by name."""
    return json.loads((place / f"{processes}.json").read_text(encoding="utf-8"))


def assert_same_run(found, expected, within=WITHIN):
    """Every record's losses, and the weights of both models."""
    ours, theirs = records(found), records(expected)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for record, other in zip(ours, theirs, strict=True):
        losses = {k: v for k, v in record.items() if "loss" in k or k.startswith(("kd", "lens"))}
        assert losses
        assert losses == pytest.approx({k: other[k] for k in losses}, abs=within, rel=within)
    for name in ("best", "last"):
        weights = load_file(found / name / "model.safetensors")
        others = load_file(expected / name / "model.safetensors")
        assert set(weights) == set(others)
        for key, weight in weights.items():
            torch.testing.assert_close(weight, others[key], atol=within, rtol=within, msg=key)


def test_the_runner_gives_what_ddp_gives(place):
    assert_same_run(place / "fsdp", place / "ddp")
    found, expected = (json.loads((place / n / "summary.json").read_text()) for n in NAMES)
    assert found["best_step"] == expected["best_step"]


def test_all_processes_read_the_lens_of_models_in_pieces(place):
    """With plain data parallelism the main process reads alone, and gets the same numbers."""
    found, expected = (
        [json.loads(line) for line in (place / name / "lens.jsonl").read_text().split("\n")[:-1]]
        for name in NAMES
    )
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [0, 3, 6]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for part in {"student", "teacher"} & ours.keys():
            assert ours[part]["entropy"] == pytest.approx(theirs[part]["entropy"], abs=1e-4)
    answers = [(place / name / "answers.jsonl").read_text(encoding="utf-8") for name in NAMES]
    assert answers[0] == answers[1]
    assert answers[0].count("\n") == 2 * 2


def test_a_saved_student_is_read_by_transformers(place):
    ids = torch.arange(12).view(2, 6)
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(place / name / "last") for name in ("fsdp", "ddp")
    )
    assert type(ours).__name__ == ours.config.architectures[0] == "GPT2LMHeadModel"
    logits = [model(input_ids=ids).logits for model in (ours, theirs)]
    torch.testing.assert_close(logits[0], logits[1], atol=WITHIN, rtol=WITHIN)
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()


def test_a_stopped_run_goes_on_to_the_same_end(place):
    assert_same_run(place / "resumed", place / "fsdp", within=1e-7)
    assert not (place / "resumed" / "state").exists()


def test_a_state_kept_in_pieces_goes_on_without_them(place):
    assert_same_run(place / "to_ddp", place / "fsdp")


def test_four_processes_go_on_where_two_were(place):
    told, codes = outputs(place, "four")
    code, error = codes["refused"]
    assert code == 2
    assert "used 2 processes x 2 batches" in error
    assert "found 4 x 2; set train.optimizer.grad_accum_step: 1" in error
    assert "note: 4 processes go on where 2 were" in told
    assert_same_run(place / "four", place / "fsdp")


def test_the_student_answers_with_all_processes(place):
    assert_same_run(place / "own_fsdp", place / "own_ddp")
    found, expected = (
        [r["rougeL"] for r in records(place / n) if "rougeL" in r] for n in ("own_fsdp", "own_ddp")
    )
    assert found == pytest.approx(expected)
    assert any(found)
    # Two samples of every run that came to its end: four with shards, four without.
    assert outputs(place, "two")[0].count("  answer:\n") == 2 * 8


def test_folders_on_disks_of_their_own_are_refused_before_training(place):
    _, error = outputs(place, "two")[1]["own disks"]
    assert "output_dir: processes 1 of 2 cannot see out, where the main process writes" in error
    assert error.count("\n") == 1
    assert not any((place / "disk_0").iterdir())


def test_one_process_measures_the_layers_and_all_train_with_them(place):
    """The others have no weights of the teacher, where one process reads them."""
    assert_same_run(place / "measured_fsdp", place / "measured_ddp")
    ours, theirs = (
        json.loads((place / name / "layer_pairs.json").read_text(encoding="utf-8"))["terms"]["lens"]
        for name in ("measured_fsdp", "measured_ddp")
    )
    assert ours["measured"] == theirs["measured"]
    assert ours["values"] == theirs["values"]
    assert outputs(place, "two")[0].count("by divergence: jsd") == 2


def test_a_teacher_cache_is_filled_and_read_as_with_ddp(place):
    # A state that rounds the other way in bfloat16 is off by far more than in float32.
    assert_same_run(place / "cached", place / "cached_ddp", within=1e-4)
    ours, theirs = (
        sorted(path.name for path in (place / name / "cache").rglob("*.safetensors"))
        for name in ("cache", "cache_ddp")
    )
    assert ours == theirs != []
