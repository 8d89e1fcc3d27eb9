"""`readout: teacher` on two processes, with whole models and with both in pieces: one process's."""

import json

import pytest
import torch
from forked_run import forked
from fsdp_on_cpu import ranks
from readout_recipes import maps_of, readout_recipe
from run_process import records
from safetensors.torch import load_file

WITHIN = 1e-5  # the processes add float32 gradients up in another order
KINDS = ("own", "shared", "alone")
NO_TERMS = "validation_terms=false"  # which a teacher cache has not the states for
AUTO = "train.criterion.kwargs.sub_terms.lens.weight=auto"


def entry(recipe, output, *changes, flags=(), **more):
    """Half as many batches on each process: a step has the rows that it has in one process."""
    arguments = [str(recipe), "--output_dir", str(output), *flags]
    for each in ("train.optimizer.grad_accum_step=2", *changes):
        arguments += ["--set", each]
    return {"arguments": arguments, **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs by name: `KIND` of one process, `KIND_ddp`, `KIND_fsdp`, and more of them."""
    place = tmp_path_factory.mktemp("runs")
    plan = {}
    for kind in KINDS:
        one = readout_recipe(place / f"recipe_{kind}", kind, windows=4)
        done = forked(one, output=place / kind)
        assert done.returncode == 0, done.stderr[-3000:]
        for name, sharded in (("ddp", False), ("fsdp", True)):
            plan[f"{kind}_{name}"] = entry(one, place / f"{kind}_{name}", sharded=sharded)
    shared = place / "recipe_shared" / "recipe.yaml"
    plan["put_away"] = entry(shared, place / "put_away", "sharding.reshard_teacher=true")
    plan["stop"] = entry(shared, place / "resumed", stop_after=1)
    plan["resume"] = entry(shared, place / "resumed", flags=["--resume"])
    plan["bf16"] = entry(shared, place / "bf16", "mixed_precision=bf16")
    plan["auto_ddp"] = entry(shared, place / "auto_ddp", AUTO, sharded=False)
    plan["auto_fsdp"] = entry(shared, place / "auto_fsdp", AUTO)
    changes = [f"teacher_cache={{path: {place / 'cache'}, teacher: whole}}", NO_TERMS]
    plan["fills"] = entry(shared, place / "fills", *changes)
    plan["full"] = entry(shared, place / "full", *changes)
    changes.append("teacher_cache.teacher=states_only")
    plan["states"] = entry(shared, place / "states", *changes, has_blocks=False)
    (place / "plan.json").write_text(json.dumps(list(plan.values())), encoding="utf-8")
    done = ranks("sharded_runs.py", place / "plan.json", place / "out.json")
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    codes = json.loads((place / "out.json").read_text(encoding="utf-8"))
    found = {name: code for name, (code, _) in zip(plan, codes, strict=True)}
    assert found == {name: None if name == "stop" else 0 for name in plan}, codes
    # One that began anew would end with the same weights.
    assert done.stdout.count("resuming ") == 1, done.stdout
    return place


def losses(folder):
    """Of each record and validation, the sum and the terms."""
    return [
        {name: value for name, value in record.items() if "loss" in name or "lens" in name}
        for record in records(folder)
    ]


def assert_same_run(found, expected, within=WITHIN):
    """Every number of every record but the pace, and the weights of the student and the maps."""
    ours, theirs = records(found), records(expected)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    assert any("lens/2-3" in record for record in ours)
    for record, other in zip(ours, theirs, strict=True):
        assert record.keys() == other.keys()
        paces = {"tokens_per_s", "peak_memory_bytes"}
        numbers = {key: value for key, value in record.items() if key not in paces}
        expected_numbers = {key: other[key] for key in numbers}
        assert numbers == pytest.approx(expected_numbers, abs=within, rel=within)
    for name in ("best", "last"):
        weights = load_file(found / name / "model.safetensors") | maps_of(found / name)
        others = load_file(expected / name / "model.safetensors") | maps_of(expected / name)
        assert weights.keys() == others.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(weight, others[key], atol=within, rtol=within, msg=key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", ["ddp", "fsdp"])
def test_two_processes_train_student_and_maps_as_one(place, kind, processes):
    assert_same_run(place / f"{kind}_{processes}", place / kind)
    owner = "lens" if kind in ("own", "alone") else "mse"
    names = {f"{owner}.projections.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert maps_of(place / f"{kind}_{processes}" / "last").keys() == names


def test_a_teacher_whose_head_is_put_away_reads_the_same(place):
    assert_same_run(place / "put_away", place / "shared")


def test_a_run_in_pieces_goes_on_with_its_maps(place):
    assert_same_run(place / "resumed", place / "shared_fsdp", within=1e-7)


def test_bfloat16_in_pieces_is_near_float32(place):
    found, exact = losses(place / "bf16"), losses(place / "shared_fsdp")
    for ours, theirs in zip(found, exact, strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)
    assert found[-1] != pytest.approx(exact[-1], rel=1e-4)
    assert all(weight.dtype == torch.float32 for weight in maps_of(place / "bf16/last").values())


def test_all_processes_measure_one_weight(place):
    assert_same_run(place / "auto_fsdp", place / "auto_ddp")
    weights = [record["weight/lens"] for record in records(place / "auto_fsdp") if "loss" in record]
    assert weights[-1] != 1


def test_a_sharded_teacher_is_read_from_its_cache(place):
    """By the run that fills it, one with the whole teacher, and one with its readout alone."""
    assert_same_run(place / "full", place / "fills")
    assert_same_run(place / "states", place / "fills")
    # All states were rounded to bfloat16.
    for ours, theirs in zip(losses(place / "fills"), losses(place / "shared"), strict=True):
        assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=0.01)
