"""`base:` and fragments: deep merge, null, places of errors, folders of paths, cycles."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from recipe_text import DISTILLATION, FINE_TUNING, write_recipe

from distillens_plugin.recipe.composition import read_composed
from distillens_plugin.recipe.full_form import full_form
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

KD = "train.criterion.kwargs.sub_terms.kd.criterion.kwargs"


def refusal(path: str, *overrides: str, fragments=()) -> str:
    with pytest.raises(DistillensError) as caught:
        load_recipe(path, overrides, fragments=fragments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mappings_are_merged_and_values_and_lists_replaced(tmp_path):
    write_recipe(tmp_path, DISTILLATION, "below.yaml")
    above = """\
base: below.yaml
train:
  num_epochs: 5
  criterion:
    kwargs:
      sub_terms: {lens: {criterion: {kwargs: {layers: {student: [1], teacher: [3]}}}}}
"""
    recipe = load_recipe(write_recipe(tmp_path, above))
    below = load_recipe(tmp_path / "below.yaml")
    assert recipe.train.num_epochs == 5
    lens = dict(recipe.lens_terms())["lens"]
    assert (lens.layers.student, lens.layers.teacher, lens.beta) == ([1], [3], 0.5)
    expected = below.to_plain()
    expected["train"]["num_epochs"] = 5
    terms = expected["train"]["criterion"]["kwargs"]["sub_terms"]
    terms["lens"]["criterion"]["kwargs"]["layers"] = {"student": [1], "teacher": [3]}
    assert recipe.to_plain() == expected


def test_null_takes_a_key_or_a_term_out(tmp_path):
    write_recipe(tmp_path, DISTILLATION, "below.yaml")
    above = """\
base: below.yaml
train:
  num_epochs: null
  num_steps: 7
  criterion: {kwargs: {sub_terms: {lens: null, kd: {criterion: {kwargs: {divergence: null}}}}}}
"""
    recipe = load_recipe(write_recipe(tmp_path, above))
    assert (recipe.train.num_epochs, recipe.train.num_steps) == (None, 7)
    terms = recipe.train.criterion.kwargs.sub_terms
    assert list(terms) == ["kd"]
    assert terms["kd"].criterion.kwargs == {}


def test_several_bases_are_put_over_each_other_in_order(tmp_path):
    write_recipe(tmp_path, DISTILLATION, "below.yaml")
    write_recipe(tmp_path, "train: {num_epochs: 3}\nseed: 4\n", "one.yaml")
    write_recipe(tmp_path, "base: one.yaml\nseed: 5\nmodels: {teacher_model: null}\n", "two.yaml")
    above = """\
base: [below.yaml, two.yaml]
train:
  criterion:
    kwargs:
      sub_terms: {kd: null, lens: null, ce: {criterion: {key: distillens.cross_entropy}}}
"""
    recipe = load_recipe(write_recipe(tmp_path, above))
    assert (recipe.train.num_epochs, recipe.seed) == (3, 5)
    # The null of a fragment that has a base itself still takes the teacher out.
    assert not recipe.is_distillation
    assert recipe.models.trained.name_or_path == "some/student"


def test_errors_name_the_file_and_line_that_gave_the_value(tmp_path):
    below = write_recipe(tmp_path, DISTILLATION.replace("batch_size: 4", "batch_size: 0"), "b.yaml")
    path = write_recipe(tmp_path, "base: b.yaml\nseed: 3\n")
    assert refusal(path).startswith(
        f"{below}:8: train.train_data_loader.kwargs.batch_size: found 0"
    )
    write_recipe(tmp_path, DISTILLATION, "b.yaml")
    path = write_recipe(tmp_path, "base: b.yaml\n\n\ntrain: {num_epochs: -1}\n")
    assert refusal(path).startswith(f"{path}:4: train.num_epochs: found -1")
    path = write_recipe(tmp_path, "base: b.yaml\nsedd: 3\n")
    assert refusal(path).startswith(f"{path}:2: sedd: unknown key; did you mean 'seed'?")
    fragment = write_recipe(tmp_path, "seed: x\n", "f.yaml")
    path = write_recipe(tmp_path, "base: b.yaml\n")
    assert refusal(path, fragments=[fragment]).startswith(f"{fragment}:1: seed: found 'x'")


def test_cycles_missing_files_and_other_types_are_refused(tmp_path):
    path = write_recipe(tmp_path, "seed: 1\nbase: other.yaml\n")
    assert refusal(path) == (
        f"{path}:2: base: there is no file {tmp_path / 'other.yaml'}; expected a recipe, "
        f"relative to the folder of {path}"
    )
    other = write_recipe(tmp_path, "base: [recipe.yaml]\n", "other.yaml")
    assert refusal(path) == (
        f"{other}:1: base: recipe.yaml is the recipe itself or starts from it; a recipe cannot be "
        "its own base"
    )
    itself = write_recipe(tmp_path, "base: itself.yaml\n", "itself.yaml")
    assert "cannot be its own base" in refusal(itself)
    assert "base: found 3, expected a recipe's file name" in refusal(
        write_recipe(tmp_path, "base: 3\n")
    )
    assert refusal(write_recipe(tmp_path), "base=x.yaml").startswith(
        "--set base=x.yaml: a recipe's"
    )


def test_one_file_may_be_the_base_of_two_others(tmp_path):
    write_recipe(tmp_path, "seed: 3\n", "common.yaml")
    write_recipe(tmp_path, DISTILLATION + "base: common.yaml\n", "one.yaml")
    write_recipe(tmp_path, "base: common.yaml\n", "two.yaml")
    assert load_recipe(write_recipe(tmp_path, "base: [one.yaml, two.yaml]\n")).seed == 3


def test_paths_start_from_the_file_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    text = DISTILLATION.replace("some/data", "./data.jsonl").replace("some/student", "../student")
    write_recipe(tmp_path / "deep", text, "below.yaml")
    above = "base: ../below.yaml\ndatasets: {validation: {path: ./valid.jsonl}}\n"
    path = write_recipe(tmp_path / "deep" / "er", above)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, ["models.teacher_model.name_or_path=./teacher"])
    assert recipe.datasets.train.path == str(tmp_path / "deep" / "data.jsonl")
    assert recipe.models.trained.name_or_path == str(tmp_path / "student")
    assert recipe.datasets.model_dump()["validation"]["path"] == str(
        tmp_path / "deep" / "er" / "valid.jsonl"
    )
    assert recipe.models.model_dump()["teacher_model"]["name_or_path"] == str(tmp_path / "teacher")


def test_a_derived_recipe_does_not_write_into_its_bases_folder(tmp_path):
    below = write_recipe(tmp_path, DISTILLATION + "output_dir: runs/below\n", "below.yaml")
    derived = write_recipe(tmp_path, "base: below.yaml\n", "derived.yaml")
    fragment = write_recipe(tmp_path, "seed: 3\n", "seeded.yaml")
    assert load_recipe(below).output_dir == "runs/below"
    assert load_recipe(derived).output_dir == "runs/derived"
    assert load_recipe(derived, fragments=[fragment]).output_dir == "runs/derived-seeded"
    assert load_recipe(below, fragments=[fragment]).output_dir == "runs/below-seeded"
    assert load_recipe(below, ["output_dir=x"], fragments=[fragment]).output_dir == "x"
    number = write_recipe(tmp_path, DISTILLATION + "output_dir: 2024\n", "number.yaml")
    assert "output_dir: found 2024, expected text" in refusal(number, fragments=[fragment])


def test_a_student_without_a_teacher_is_fine_tuned(tmp_path, repo):
    sft = repo / "recipes" / "methods" / "sft.yaml"
    path = write_recipe(tmp_path)
    recipe = load_recipe(path, ["train.student={frozen_modules: [a]}"], fragments=[sft])
    assert not recipe.is_distillation
    assert recipe.trained_role == "student_model"
    form = full_form(recipe, type("Facts", (), {"num_layers": 2, "blocks": "h"})())
    assert form["models"] == {
        "model": load_recipe(path).models.trained.model_dump(exclude_none=True)
    }
    assert form["train"]["model"]["frozen_modules"] == ["a"]
    assert "student" not in form["train"]
    # A fine-tuning recipe has nothing to take out, and is left as it is but for its loss.
    tuned = load_recipe(write_recipe(tmp_path, FINE_TUNING), fragments=[sft])
    assert tuned.trained_role == "model"


def test_validate_print_shows_the_recipe_resolved(tmp_path, repo):
    config = repo / "tests" / "configs" / "gpt2"
    command = [sys.executable, "-m", "distillens_plugin.run", "recipes/gpt2.yaml"]
    command += ["--with", "recipes/methods/rkl.yaml", "--with", "recipes/methods/sft.yaml"]
    command += ["--set", f"models.student_model.name_or_path={config}", "--validate", "--print"]
    command += ["--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo, timeout=120)
    assert done.returncode == 0, done.stderr
    form = yaml.unsafe_load(
        done.stdout[done.stdout.index("dependencies:") :].replace("!import_get", "")
    )
    assert list(form["models"]) == ["model"]
    assert list(form["train"]["criterion"]["kwargs"]["sub_terms"]) == ["ce"]
    assert "base" not in form
    assert not Path(tmp_path / "run").exists()


def test_each_base_is_read_once_however_often_it_is_named(tmp_path, monkeypatch):
    for level in range(25):
        names = f"[level{level + 1}.yaml, level{level + 1}.yaml]"
        write_recipe(tmp_path, f"base: {names}\nlog_every: {level + 1}\n", f"level{level}.yaml")
    write_recipe(tmp_path, DISTILLATION, "level25.yaml")
    started = time.process_time()
    recipe = load_recipe(str(tmp_path / "level0.yaml"))
    assert time.process_time() - started < 5
    assert recipe.log_every == 1
    assert recipe.where("log_every").startswith(f"{tmp_path}/level0.yaml:2")
    assert recipe.where("train.num_epochs").startswith(f"{tmp_path}/level25.yaml:7")


def test_a_recipe_of_too_many_files_is_refused(tmp_path):
    for level in range(60):
        write_recipe(tmp_path, f"base: level{level + 1}.yaml\n", f"level{level}.yaml")
    write_recipe(tmp_path, DISTILLATION, "level60.yaml")
    with pytest.raises(DistillensError, match="made of more than 50 files"):
        load_recipe(str(tmp_path / "level0.yaml"))


def test_later_bases_keep_the_places_of_what_they_change(tmp_path):
    """A list that replaces a mapping leaves none of its places behind."""
    write_recipe(tmp_path, DISTILLATION, "one.yaml")
    write_recipe(tmp_path, "train: [1]\n", "two.yaml")
    derived = write_recipe(tmp_path, "base: [one.yaml, two.yaml]\n", "derived.yaml")
    with pytest.raises(DistillensError, match=f"{tmp_path}/two.yaml:1: train: found"):
        load_recipe(derived)
    composed = read_composed(derived)
    assert [at for at in composed.origins if at[:1] == ("train",)] == [("train",), ("train", 0)]


def test_null_takes_a_key_out_of_a_losss_inner_mappings_too():
    root = Path(__file__).resolve().parents[2] / "recipes"
    recipe = load_recipe(root / "gpt2.yaml", fragments=[root / "methods" / "lens_thrifty.yaml"])
    kwargs = recipe.train.criterion.kwargs.sub_terms["lens"].criterion.kwargs
    assert kwargs["layers"] == {"auto": 1, "by": "divergence"}
