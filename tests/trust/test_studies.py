"""A study gives no trust to its runs, evaluations and generated answers."""

import os
import subprocess
import sys

import pytest
from hostile_code import refused
from tiny_study import ENVIRONMENT, METHODS, tiny_study

from distillens_plugin import cli
from distillens_plugin.study.child import import_paths
from distillens_plugin.study.evaluation import evaluation_arguments
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from eval_harness.shared.model_folder.trust import (
    MODEL_FLAG,
    RECIPE_FLAG,
)

EVALUATION = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}}


@pytest.mark.parametrize(
    ("model", "model_args", "part"),
    [
        ("hf", {"trust_remote_code": True}, RECIPE_FLAG),
        ("hf", {"trust_remote_code": "yes"}, "expected true or false"),
        ("hf", {"dtype": "float32,trust_remote_code=True"}, "dtype"),
        ("hf", {"dtype,trust_remote_code": True}, "not an argument name"),
        ("hf", {"attn_implementation": "evil/attention"}, RECIPE_FLAG),
        ("hf", {"pretrained": "evil/model"}, "its own model"),
        ("vllm", {"trust_remote_code": True}, RECIPE_FLAG),
        ("vllm", {"worker_extension_cls": "own.Worker"}, RECIPE_FLAG),
        ("vllm", {"hf_overrides": {"architectures": ["Own"]}}, RECIPE_FLAG),
    ],
)
@pytest.mark.parametrize("mode", ["--validate", "--dry-run", "--report_only"])
def test_a_study_gives_no_trust_to_its_evaluations(tmp_path, marker, model, model_args, part, mode):
    evaluation = {**EVALUATION, "model": model, "model_args": model_args}
    message = refused(cli.main, "study", tiny_study(tmp_path, evaluation=evaluation), mode)
    assert part in message
    assert "evaluation.model_args" in message


@pytest.mark.parametrize(
    "model_args",
    [
        "trust_remote_code=True",
        "dtype=float32,trust_remote_code=true",
        " trust_remote_code = True",
        "attn_implementation=evil/attention",
    ],
)
def test_a_study_gives_no_trust_to_its_teachers_answers(tmp_path, marker, model_args):
    method = {"fragments": [str(METHODS / "seqkd.yaml")]}
    method["generate"] = {"model": "hf", "model_args": model_args}
    study = tiny_study(tmp_path, methods={"seqkd": method}, compare_to=[])
    message = refused(cli.main, "study", study, "--validate")
    assert RECIPE_FLAG in message
    assert "methods.seqkd.generate.model_args" in message


def test_a_study_sends_no_key_to_a_server_that_it_names(tmp_path, marker):
    method = {"fragments": [str(METHODS / "seqkd.yaml")]}
    arguments = "base_url=https://elsewhere.example/v1,api_key_env=HF_TOKEN"
    method["generate"] = {"model": "server", "model_args": arguments}
    study = tiny_study(tmp_path, methods={"seqkd": method}, compare_to=[])
    message = refused(cli.main, "study", study, "--validate")
    assert RECIPE_FLAG in message
    assert "methods.seqkd.generate.model: found server, which sends prompts, and a key" in message


@pytest.mark.parametrize("where", ["study", "method", "tune"])
def test_a_study_gives_no_trust_to_its_recipes(tmp_path, marker, where):
    keys = {"models.student_model.trust_remote_code": True}
    changes = {"set": {**keys, "models.student_model.tokenizer": "./teacher"}}
    if where == "method":
        changes = {"methods": {"a": {"set": keys}}, "compare_to": []}
    elif where == "tune":
        grid = {key: [value] for key, value in keys.items()}
        changes = {"methods": {"a": {"tune": [grid]}}, "compare_to": [], "tune": {"seeds": [9]}}
    message = refused(cli.main, "study", tiny_study(tmp_path, **changes), "--validate")
    assert RECIPE_FLAG in message


def test_trust_in_a_study_goes_to_its_runs_only_where_it_was_given(tmp_path, marker):
    path = tiny_study(tmp_path, evaluation={**EVALUATION, "model_args": {"dtype": "float32"}})
    for trust in (False, True):
        study = load_study(path, trust=trust)
        run = make_run(study, "main", "lens", 1)
        assert (RECIPE_FLAG in run.command()) is trust
        assert (MODEL_FLAG in evaluation_arguments(run, "default")) is trust
        assert ("PYTHONSAFEPATH" in import_paths(trusted=trust)) is not trust


def test_texts_of_a_study_are_no_flags(tmp_path, marker):
    evaluation = {**EVALUATION, "template": "--trust_remote_code{instruction}"}
    study = load_study(tiny_study(tmp_path, evaluation=evaluation))
    arguments = evaluation_arguments(make_run(study, "main", "lens", 1), "default")
    assert "--template=--trust_remote_code{instruction}" in arguments
    assert not any(argument.startswith("--trust") for argument in arguments)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_module_in_the_working_folder_is_not_taken_for_a_library(tmp_path, trusted):
    marker = tmp_path / "MARKER"
    (tmp_path / "yaml.py").write_text(f"open({str(marker)!r}, 'w')\n")
    subprocess.run(
        [sys.executable, "-m", "eval_harness", "ls"],
        cwd=tmp_path,
        env={**ENVIRONMENT, **import_paths(trusted=trusted)},
        capture_output=True,
    )
    assert marker.exists() is trusted


def test_a_relative_import_path_holds_for_a_child_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["packages", ""]))
    found = import_paths(trusted=True)["PYTHONPATH"].split(os.pathsep)
    assert found[1:] == [str(tmp_path / "packages"), str(tmp_path)]
