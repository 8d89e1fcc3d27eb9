"""Studies whose runs read their teacher from a cache."""

import json

import pytest
from tiny_study import fake_run, run_study, tiny_study

from distillens_plugin.study.filling import refuse_to_fill_together
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from eval_harness.errors import DistillensError


def cached(folder, **cache):
    given = {"models.student_model.tokenizer": "./teacher", "threads": 1, "log_every": 1}
    given["teacher_cache"] = {"path": str(folder / "states"), **cache}
    methods = {"lens": {"set": {"lens_weight": 0.5}}}
    return tiny_study(folder, set=given, methods=methods, compare_to=[], evaluation=None)


def test_a_cache_that_is_not_full_is_not_filled_by_several_runs_at_once(tmp_path):
    path = cached(tmp_path)
    done = run_study(path, "--jobs", "2")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for part in (
        "is not full, and while one run fills it no other",
        "distillens cache",
        "--jobs 1",
    ):
        assert part in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    # What has been trained needs no cache any more.
    study = load_study(path)
    runs = [make_run(study, "main", "lens", seed) for seed in study.seeds]
    for run in runs:
        fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    refuse_to_fill_together(runs)


def test_a_full_cache_serves_runs_at_once(tmp_path):
    path = cached(tmp_path)
    one = run_study(path, "--jobs", "1")
    assert one.returncode == 0, one.stdout + one.stderr
    refuse_to_fill_together([make_run(load_study(path), "main", "lens", 9)])
    shard = next((tmp_path / "states").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(DistillensError, match="is not full"):
        refuse_to_fill_together([make_run(load_study(path), "main", "lens", 9)])


@pytest.mark.parametrize(
    ("engine", "counts"),
    [
        ({"engine": "training", "dtype": "float32", "precision": "no"}, False),
        ({"engine": "vllm", "dtype": "float32", "quantisation": "none"}, False),
        ({"engine": "vllm", "dtype": "float32", "quantisation": "fp8"}, True),
        ({"engine": "hf", "dtype": "bfloat16", "quantisation": "none"}, True),
    ],
)
def test_states_of_an_engine_that_computes_otherwise_make_another_run(tmp_path, engine, counts):
    study = load_study(cached(tmp_path))
    before = make_run(study, "main", "lens", 1)
    plain = before.fingerprint
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "fingerprint.json").write_text(
        json.dumps({"format": 2, "engine": engine})
    )
    after = make_run(study, "main", "lens", 1)
    assert (after.fingerprint != plain) == counts
    assert ("teacher_cache.engine" in after.resolved) == counts
