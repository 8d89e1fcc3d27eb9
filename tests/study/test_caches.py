"""Studies whose runs read their teacher from a cache."""

import json
import re

import pytest
from tiny_study import fake_run, run_study, tiny_study

from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.study import state
from distillens_plugin.study.caches import check_caches
from distillens_plugin.study.filling import refuse_to_fill_together
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from distillens_plugin.study.runner import commands_of
from distillens_plugin.teacher_cache import choice
from distillens_plugin.teacher_cache.identity import make_fingerprint
from distillens_plugin.teacher_cache.model_facts import facts_of
from distillens_plugin.teacher_cache.plan import plan_from_configs
from eval_harness.errors import DistillensError

PLAIN = {"models.student_model.tokenizer": "./teacher", "threads": 1, "log_every": 1}


def cached(folder, **changes):
    given = {**PLAIN, "teacher_cache": {"path": str(folder / "states")}}
    methods = {"lens": {"set": {"lens_weight": 0.5}}}
    others = {"set": given, "methods": methods, "compare_to": [], "evaluation": None}
    return tiny_study(folder, **{**others, **changes})


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


@pytest.mark.parametrize("had", [False, True])
def test_an_interrupted_run_whose_cache_was_added_or_removed_starts_over_only_if_told(
    tmp_path, had
):
    given = [{"set": PLAIN}, {}]
    before = make_run(load_study(cached(tmp_path, **given[had])), "main", "lens", 1)
    state.start(before)
    before.train_folder.mkdir()
    recipe = before.train_folder / "recipe.yaml"
    recipe.write_text(to_yaml(before.recipe.to_plain()), encoding="utf-8")
    # Unchanged, it resumes.
    commands_of(before, overwrite=False)[0].before()
    assert recipe.exists()
    run = make_run(load_study(cached(tmp_path, **given[not had])), "main", "lens", 1)
    assert run.fingerprint == before.fingerprint
    now = "with a teacher cache, and has none now" if had else "without a teacher cache, and has o"
    with pytest.raises(DistillensError, match=rf"seed_1: was interrupted {now}.*--overwrite$"):
        commands_of(run, overwrite=False)
    assert recipe.exists()
    commands_of(run, overwrite=True)[0].before()
    assert not recipe.exists()


def searching(folder, *grids, **tune):
    methods = {"lens": {"set": {"lens_weight": 0.5}, "tune": list(grids)}}
    return load_study(cached(folder, methods=methods, tune={"seeds": [9], **tune}))


@pytest.fixture
def begun(tmp_path):
    """The folder of a study whose cache is of its final runs, and holds no whole row."""
    recipe = make_run(load_study(cached(tmp_path)), "main", "lens", 1).recipe
    _, examples, _ = load_data(recipe)
    plan = plan_from_configs(recipe, examples, facts_of(recipe))
    fingerprint = make_fingerprint(recipe, examples, plan.states)
    plan.folder.mkdir()
    (plan.folder / "fingerprint.json").write_text(fingerprint.to_json())
    (plan.folder / "shard-0.safetensors").touch()
    return tmp_path


WEIGHTS = {"lens_weight": [0.5, 1.0]}
ROWS = {"datasets.train.num_rows": [24, 16]}


@pytest.mark.parametrize(
    ("grids", "tune", "which"),
    [
        ([WEIGHTS], {"set": {"datasets.train.num_rows": 16}}, "its search, with lens_weight 0.5: "),
        ([ROWS], {}, "with datasets.train.num_rows 16: "),
        ([WEIGHTS, ROWS], {}, "with lens_weight 0.5, datasets.train.num_rows 16: "),
        ([WEIGHTS], {"set": {"datasets.train.template": "question"}}, "its search, with lens_we"),
    ],
)
def test_validate_looks_at_the_cache_with_everything_that_a_search_asks_of_it(
    begun, capsys, grids, tune, which
):
    from distillens_plugin import cli

    study = searching(begun, *grids, **tune)
    assert cli.main(["study", study.path, "--validate"]) == 2
    error = capsys.readouterr().err
    assert f"methods.lens: {which}" in error
    assert "states holds other states (" in error
    assert error.count("\n") == 1


def test_a_cache_is_looked_at_once_for_what_is_asked_alike(begun, monkeypatch):
    looked = []
    describe = choice.describe_choice
    monkeypatch.setattr(choice, "describe_choice", lambda r: looked.append(r) or describe(r))
    study = searching(begun, WEIGHTS, {"lr": [1e-3, 3e-3]}, set={"steps": 2})
    (line,) = check_caches(study, ["lens"])
    assert re.search(r"lacks (\d+) of \1 rows", line)
    # The command that fills it is that of the study without a search.
    assert "lens.weight=0.5" in line
    assert "optimizer" not in line
    assert len(looked) == 1
    # A search that needs no cache asks nothing of one.
    study = searching(begun, WEIGHTS, set={"teacher_cache": None})
    assert list(check_caches(study, ["lens"])) == [line]
    assert len(looked) == 2


def test_what_never_runs_need_not_be_in_the_cache(begun):
    # The recipe's own number of rows is in no run: the search sets another.
    given = {**PLAIN, "teacher_cache": {"path": str(begun / "states")}}
    given["datasets.train.num_rows"] = 16
    methods = {"lens": {"tune": [{"datasets.train.num_rows": [24]}, WEIGHTS]}}
    study = load_study(cached(begun, set=given, methods=methods, tune={"seeds": [9]}))
    (line,) = check_caches(study, ["lens"])
    assert re.search(r"lacks (\d+) of \1 rows", line)
