"""Hostile studies, fragments and benchmark files: one line or fine, at once, nothing written.

`DISTILLENS_HOSTILE_CASES=2000 pytest` on this file tries more than the suite does.
"""

import os

import pytest
import yaml
from hostile_yaml import handmade, mutated
from tiny_run import save_tiny_model
from tiny_study import METHODS, tiny_study
from watched import call, unchanged

import eval_harness.cli
from distillens_plugin import cli
from distillens_plugin.study.spec import Study

NUM_CASES = int(os.environ.get("DISTILLENS_HOSTILE_CASES", "120"))
SEED = 20261127


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    (tmp_path / "teacher").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(folder, cases, arguments, name):
    """(case, what is wrong) of all cases whose content is put into the file `name`."""
    found = []
    for case in cases:
        for file, content in {**case.files, name: case.content}.items():
            (folder / file).write_bytes(content)
        with unchanged(folder):
            outcome = call(arguments[0], [str(argument) for argument in arguments[1:]])
        for file in case.files:
            (folder / file).unlink()
        if fault := outcome.fault():
            found.append((case.name, fault))
    return found


def test_hostile_studies(folder):
    path = tiny_study(
        folder,
        methods={
            "sft": {"label": "SFT", "fragments": [str(METHODS / "sft.yaml")]},
            "lens": {
                "set": {"lens_weight": 0.5},
                "tune": [{"lr": [1e-3, 2e-3]}, {"lens_weight": [1.0]}],
                "compare_to": [],
            },
            "seqkd": {
                "fragments": [str(METHODS / "seqkd.yaml")],
                "generate": {"model": "hf", "model_args": "dtype=float32"},
            },
        },
        tune={"seeds": [9], "set": {"steps": 2}},
        budget={"equal_compute": {"clock": "lens", "methods": ["sft"]}},
        paper={"source": "a paper", "scores": {"sft": 12.5}, "teacher": 40.0},
    )
    text = path.read_text(encoding="utf-8")
    arguments = (cli.main, "study", path, "--validate")
    assert call(*arguments[:1], [str(argument) for argument in arguments[1:]]).code == 0
    keys = [*Study.model_fields, "evaluation.limit", "evaluation.model_args.dtype", "base"]
    keys += ["evaluation.batch_size", "evaluation.template", "methods.lens.set.seed", "methods.new"]
    cases = [*handmade(text), *mutated(text, keys, num_cases=NUM_CASES, seed=SEED)]
    wrong = faults(folder, cases, arguments, "study.yaml")
    assert not wrong, f"{len(wrong)} of {len(cases)}: {wrong[:20]}"


def test_hostile_fragments(folder):
    tiny_study(folder)
    (folder / "fragment.yaml").write_text("log_every: 2\n")
    text = (METHODS / "akl.yaml").read_text(encoding="utf-8")
    arguments = (cli.main, "run", "recipe.yaml", "--with", "fragment.yaml", "--validate")
    keys = ["train.num_steps", "output_dir", "models.student_model", "datasets.validation", "base"]
    cases = mutated(text, keys, num_cases=NUM_CASES // 3, seed=SEED)
    wrong = faults(folder, cases, arguments, "fragment.yaml")
    assert not wrong, wrong[:20]


BENCHMARK = {
    "task": "small",
    "description": "rows of ours",
    "version": 1,
    "path": "rows.jsonl",
    "template": "{instruction}\n",
    "metrics": ["rougeL", "exact_match"],
    "fields": {"instruction": "instruction", "output": "output"},
}


def test_hostile_benchmark_files(folder):
    tiny_study(folder)
    text = yaml.safe_dump(BENCHMARK, sort_keys=False)
    arguments = (eval_harness.cli.main, "ls", "--include_path", "small.yaml")
    (folder / "small.yaml").write_text(text)
    assert call(arguments[0], list(arguments[1:])).code == 0
    keys = ["hub.repo", "hub", "fields.id", "limit"]
    cases = [*handmade(text), *mutated(text, keys, num_cases=NUM_CASES, seed=SEED)]
    wrong = faults(folder, cases, arguments, "small.yaml")
    assert not wrong, f"{len(wrong)} of {len(cases)}: {wrong[:20]}"
