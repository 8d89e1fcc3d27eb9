"""Study files: what is refused and where, what runs come out, and which files the repo ships."""

import shutil
from pathlib import Path

import pytest
import yaml
from tiny_study import METHODS, run_study, tiny_study

from distillens_plugin import cli
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run, slug
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice, search_so_far, stage_runs
from eval_harness.errors import DistillensError

SHIPPED = (
    "quickstart",
    "quickstart_ablations",
    "quickstart_ablations_1.2e-2",
    "quickstart_confirmed",
    "quickstart_forms",
    "quickstart_forms_longer",
    "quickstart_layers",
    "quickstart_longer",
    "paper_gpt2",
    "paper_gpt2_medium",
    "paper_tinyllama",
    "paper_qwen2.5",
)
# Fragments that take the lens out.
WITHOUT_LENS = {"no_lens", "sft", "seqkd", "hidden_mse", "hidden_cosine", "cka", "gram"}
# ROUGE-L, mean of the five tasks: the paper's table.
PAPER = {
    "paper_gpt2": (16.56, 17.20, 17.56, 17.50, 17.20, 17.64, 16.64, 21.12),
    "paper_gpt2_medium": (20.58, 20.42, 21.02, 20.82, 20.62, 20.64, 21.04, 23.72),
    "paper_tinyllama": (24.16, 23.82, 24.00, 24.56, 24.44, 24.32, 23.18, 25.48),
    "paper_qwen2.5": (26.60, 26.88, 28.43, 28.23, 26.09, 27.66, None, 30.07),
}
COLUMNS = ("sft", "fkl", "rkl", "jeffreys", "jsd", "akl", "seqkd", "distillens")


def refusal(path):
    with pytest.raises(DistillensError) as caught:
        load_study(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seed": [1]}, ("study.yaml:", "seed", "did you mean 'seeds'")),
        ({"seeds": [1, 1]}, ("study.yaml:", "seeds", "each once")),
        ({"compare_to": ["stf"]}, ("compare_to.0", "did you mean 'sft'")),
        ({"set": {"train.optimizer.kwargs.lr": 1e-3, "trian.num_steps": 3}}, ("'train'",)),
        ({"set": {"seed": 3}}, ("set.seed", "the study sets this")),
        ({"methods": {"a": {"fragment": []}}}, ("methods.a.fragment", "'fragments'")),
        (
            {"methods": {"a": ["nowhere.yaml"]}, "compare_to": []},
            ("methods.a", "nowhere.yaml", "no file"),
        ),
        ({"methods": {"a/b": []}}, ("methods.a/b", "letters")),
        ({"methods": {"sft": {"tune": {"lr": [1e-3]}}}}, ("methods.sft.tune", "tune: {seeds")),
        ({"tune": {"seeds": [9]}}, ("tune", "no method has a grid")),
        (
            {"tune": {"seeds": [2]}, "methods": {"sft": {"tune": {"lr": [1e-3]}}}},
            ("tune.seeds", "final seeds"),
        ),
        (
            {"tune": {"seeds": [9]}, "methods": {"sft": {"tune": [{"lr": []}]}}},
            ("methods.sft.tune.0.lr", "empty list"),
        ),
        ({"budget": {"equal_compute": {"clock": "lense"}}}, ("clock", "did you mean 'lens'")),
        ({"paper": {"source": "x", "scores": {"sfft": 1.0}}}, ("scores.sfft", "'sft'")),
        ({"title": None}, ("title", "missing")),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, changes, parts):
    message = refusal(tiny_study(tmp_path, **changes))
    for part in parts:
        assert part in message, message


def test_a_mistake_in_a_methods_recipe_names_the_method_and_the_key(tmp_path):
    path = tiny_study(tmp_path, set={"train.optimizer.kwargs.lrr": 1e-3})
    done = run_study(path, "--validate")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for part in ("methods.sft", "--set train.optimizer.kwargs.lrr", "did you mean 'lr'"):
        assert part in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("evaluation", "part"),
    [
        ({"tasks": ["gsm9k"]}, "gsm8k"),
        ({"tasks": ["gsm8k"], "protocols": ["gredy"]}, "greedy"),
        ({"tasks": ["gsm8k"], "template": "alpacca"}, "alpaca"),
        ({"tasks": ["gsm8k"], "gen_kwargs": {"temprature": 1}}, "temperature"),
        ({"tasks": ["gsm8k"], "data": {"gsm8k": "./none.jsonl"}}, "none.jsonl"),
    ],
)
def test_a_mistake_in_the_evaluation_is_found_before_any_training(tmp_path, evaluation, part):
    done = run_study(tiny_study(tmp_path, evaluation=evaluation))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "study.yaml:" in done.stderr
    assert part in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("push_to_hub", "mine", "all runs of the study would upload"),
        ("train.early_stopping", {"patience": 2}, "compares final runs at equal steps"),
    ],
)
def test_what_fits_one_run_but_no_comparison_is_refused(tmp_path, capsys, key, value, part):
    """Before anything runs, wherever the key comes from."""
    path = tiny_study(tmp_path, set={"models.student_model.tokenizer": "./teacher", key: value})
    for flags in (["--validate"], [], ["--only", "main/lens/seed_1"]):
        capsys.readouterr()
        assert cli.main(["study", str(path), *flags]) == 2
        error = capsys.readouterr().err
        assert key in error
        assert part in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out" / "main").exists()


def test_a_teacher_cache_that_lacks_what_a_method_reads_is_found_before_any_training(
    tmp_path, capsys
):
    cache = {"path": str(tmp_path / "states"), "teacher": "states_only"}
    path = tiny_study(
        tmp_path,
        set={"models.student_model.tokenizer": "./teacher", "teacher_cache": cache},
        methods={"none": [str(METHODS / "no_lens.yaml")], "lens": {}},
        compare_to=["none"],
    )
    assert cli.main(["study", str(path), "--validate"]) == 2
    error = capsys.readouterr().err
    # The command of the method whose states serve both.
    assert "methods.lens" in error
    assert "holds no states yet; fill it: distillens cache" in error
    recipe = [str(tmp_path / "recipe.yaml"), "--set", f"teacher_cache.path={cache['path']}"]
    assert cli.main(["cache", *recipe, "--with", str(METHODS / "no_lens.yaml")]) == 0
    assert cli.main(["study", str(path), "--validate"]) == 2
    error = capsys.readouterr().err
    assert "methods.lens" in error
    assert "holds other states (teacher layers:" in error
    shutil.rmtree(cache["path"])
    # What the lens reads serves the method without one, too.
    assert cli.main(["cache", *recipe]) == 0
    assert cli.main(["study", str(path), "--validate"]) == 0
    assert "readout and head are loaded" in (out := capsys.readouterr().out)
    assert ": lens, none\n" in out


def test_a_search_may_stop_early(tmp_path):
    path = tiny_study(
        tmp_path,
        methods={"sft": [str(METHODS / "sft.yaml")], "lens": {"tune": [{"lens_weight": [0.3]}]}},
        tune={"seeds": [7], "set": {"train.early_stopping": {"patience": 2}}},
    )
    (run,) = stage_runs(load_study(path), "lens", 0, {})
    assert run.recipe.train.early_stopping.patience == 2


def test_flags_that_exclude_each_other_and_bad_jobs_are_refused(tmp_path):
    path = tiny_study(tmp_path)
    for flags in (("--validate", "--dry-run"), ("--jobs", "0")):
        done = run_study(path, *flags)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr


def test_keys_of_study_method_search_and_budget_come_in_this_order(tmp_path):
    path = tiny_study(
        tmp_path,
        set={"lr": 1e-3, "steps": 9, "models.student_model.tokenizer": "./teacher"},
        methods={"sft": {"set": {"lr": 2e-3}, "tune": {"lr": [3e-3, 4e-3]}}},
        tune={"seeds": [7], "set": {"steps": 2}},
    )
    study = load_study(path)
    final = make_run(study, "main", "sft", 1)
    assert final.recipe.train.optimizer.kwargs["lr"] == 2e-3
    assert (final.recipe.train.num_steps, final.recipe.train.num_epochs) == (9, None)
    assert final.recipe.models.trained.tokenizer == str(tmp_path / "teacher")
    searched = stage_runs(study, "sft", 0, {})
    assert [run.recipe.train.optimizer.kwargs["lr"] for run in searched] == [3e-3, 4e-3]
    assert {run.recipe.train.num_steps for run in searched} == {2}
    assert {run.seed for run in searched} == {7}
    longer = make_run(study, "compute", "sft", 1, chosen={"lr": 3e-3}, num_steps=20)
    assert longer.recipe.train.num_steps == 20
    assert longer.recipe.train.optimizer.kwargs["lr"] == 3e-3


def test_a_fingerprint_follows_content_not_place(tmp_path):
    first = make_run(load_study(tiny_study(tmp_path / "a")), "main", "lens", 1)
    second_path = tiny_study(tmp_path / "b")
    second = make_run(load_study(second_path), "main", "lens", 1)
    assert first.fingerprint == second.fingerprint
    other_seed = make_run(load_study(second_path), "main", "lens", 2)
    assert other_seed.fingerprint != first.fingerprint
    (tmp_path / "b" / "teacher" / "config.json").open("a").write("\n")
    changed = make_run(load_study(second_path), "main", "lens", 1)
    assert changed.fingerprint != first.fingerprint


def test_later_grids_start_from_the_best_of_earlier_ones(tmp_path):
    from tiny_study import fake_run

    path = tiny_study(
        tmp_path,
        methods={"lens": {"tune": [{"lr": [1e-3, 2e-3]}, {"lens_weight": [0.1, 3.0]}]}},
        compare_to=[],
        tune={"seeds": [7, 8]},
    )
    study = load_study(path)
    for run, loss in zip(stage_runs(study, "lens", 0, {}), (5.0, 5.2, 4.0, 4.2), strict=True):
        fake_run(run.folder, run.fingerprint, losses={3: loss})
    choice = search_so_far(study)[0]["lens"]
    assert choice.settings == {"lr": 2e-3}
    second = stage_runs(study, "lens", 1, choice.settings)
    for run, loss in zip(second, (4.5, 4.5, 3.5, 3.7), strict=True):
        fake_run(run.folder, run.fingerprint, losses={3: loss})
    choices, stages = search_so_far(study)
    choice = choices["lens"]
    assert choice.settings == {"lr": 2e-3, "lens_weight": 3.0}
    # The first grid is shown as it was tried, without what the second one found.
    assert [run.chosen for run in stages[0]] == [{"lr": lr} for lr in (1e-3, 1e-3, 2e-3, 2e-3)]
    assert [run.name for run in stages[1]] == [run.name for run in second]
    losses = [entry.validation_nll for entry in choice.tried]
    assert losses == [pytest.approx(value) for value in (5.1, 4.1, 4.5, 3.6)]
    final = main_runs(study, {"lens": choice})["lens"][0]
    assert final.recipe.train.criterion.kwargs.sub_terms["lens"].weight == 3.0


def test_a_setting_that_failed_with_one_seed_is_not_chosen(tmp_path):
    from tiny_study import fake_run

    path = tiny_study(
        tmp_path,
        methods={"lens": {"tune": {"lr": [1e-3, 2e-3]}}},
        compare_to=[],
        tune={"seeds": [7, 8]},
    )
    study = load_study(path)
    runs = stage_runs(study, "lens", 0, {})
    for run, loss in zip(runs[:3], (5.0, 5.2, 1.0), strict=True):
        fake_run(run.folder, run.fingerprint, losses={3: loss})
    assert search_so_far(study)[0]["lens"].settings == {"lr": 1e-3}
    assert not main_runs(study, {"lens": Choice(tried=[])})["lens"][0].chosen


def test_folder_names_of_settings_are_safe_and_distinct():
    assert slug({"lr": 1e-3, "kd": "fkl"}) == "lr=0.001,kd=fkl"
    long = [slug({"train.criterion.a/b": value}) for value in ("x/..", "x_..", ["x"])]
    assert len(set(long)) == 3
    assert not any("/" in name for name in long)


def test_no_shipped_study_is_left_out_of_these_tests(repo):
    assert {path.stem for path in (repo / "recipes" / "studies").glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_of_a_shipped_study_can_be_read(repo, name):
    study = load_study(repo / "recipes" / "studies" / f"{name}.yaml")
    for method, spec in study.methods.items():
        without = WITHOUT_LENS.intersection(Path(name).stem for name in spec.fragments)
        for run in [
            *main_runs(study, {method: Choice()})[method],
            *stage_runs(study, method, 0, {}),
        ]:
            lens = dict(run.recipe.lens_terms())
            assert ("lens" in lens) == (not without), method
    header = (repo / "recipes" / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"distillens study recipes/studies/{name}.yaml" in header


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers_stand_in_its_studies(repo, name):
    study = load_study(repo / "recipes" / "studies" / f"{name}.yaml")
    assert study.paper is not None
    expected = {key: value for key, value in zip(COLUMNS, PAPER[name], strict=True) if value}
    assert study.paper.scores == expected
    assert study.evaluation is not None
    assert study.evaluation.protocols[0] == "minillm"


def test_the_quickstart_study_validates_without_skipping_anything(repo):
    done = run_study(repo / "recipes" / "studies" / "quickstart.yaml", "--validate")
    assert done.returncode == 0, done.stderr
    study = yaml.safe_load((repo / "recipes/studies/quickstart.yaml").read_text(encoding="utf-8"))
    assert done.stdout.count("ok ") == len(study["methods"]) + 1
    assert "skipped" not in done.stdout
