"""`eval-harness run --systems`: many systems in one process, each as in a call of its own."""

import json
import os
import shutil

import pytest
import yaml
from small_systems import adapter, student

from eval_harness import evaluate_systems
from eval_harness.api import evaluate
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.cli import main
from eval_harness.comparison.systems import load_systems
from eval_harness.errors import RunFailure

FLAGS = ["--model", "hf", "--tasks", "small", "--limit", "6", "--seed", "1,2", "--device", "cpu"]
FLAGS += ["--gen_kwargs", "max_gen_toks=8", "--loglikelihood"]


@pytest.fixture(scope="module")
def models(small_llama, tmp_path_factory):
    """A folder with two students and an adapter of the small Llama."""
    folder = tmp_path_factory.mktemp("systems")
    student(small_llama, folder / "one", 1)
    student(small_llama, folder / "two", 2)
    adapter(small_llama, folder / "lora", seed=3, rank=4)
    adapter(small_llama, folder / "other_lora", seed=4, rank=2)
    return folder


@pytest.fixture(scope="module")
def encoder(small_llama, tmp_path_factory):
    """A model that is refused only when its weights are there: it reads later tokens."""
    from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

    folder = tmp_path_factory.mktemp("encoder") / "bert"
    config = BertConfig(
        vocab_size=2048,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=1.0,
    )
    BertLMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small_llama).save_pretrained(folder)
    return folder


@pytest.fixture
def run(small_benchmark, monkeypatch):
    """The command in this process, in a folder; gives its exit code."""

    def call(*arguments, folder):
        monkeypatch.chdir(folder)
        return main(["run", *FLAGS, "--include_path", str(small_benchmark), *map(str, arguments)])

    return call


def written(out):
    """What is written below a folder, but for times: relative path without its time -> content."""
    found = {}
    for path in sorted(out.rglob("*.json*")):
        text = path.read_text(encoding="utf-8")
        if path.name.startswith("results_"):
            content = json.loads(text)
            for key in ("date", "start_time", "end_time", "total_evaluation_time_seconds"):
                content.pop(key, None)
            text = json.dumps(content, indent=1)
        found[str(path.relative_to(out)).split("_20")[0]] = text
    return found


def test_each_system_gets_the_files_of_a_call_of_its_own(
    run, models, tmp_path, capsys, monkeypatch
):
    loads, load = [], TransformersBackend.load.__func__
    monkeypatch.setattr(
        TransformersBackend,
        "load",
        classmethod(lambda *args, **kwargs: loads.append(args[1].name) or load(*args, **kwargs)),
    )
    together = ["--systems", "lora", "one", "other_lora", "--output_path", tmp_path / "together"]
    assert run(*together, folder=models) == 0
    assert len(loads) == 2  # the two adapters take turns on one base
    base = json.loads((models / "lora/adapter_config.json").read_text())["base_model_name_or_path"]
    alone = ["pretrained=one", f"pretrained={base},peft=other_lora", f"pretrained={base},peft=lora"]
    for arguments in alone:
        out = ["--model_args", arguments, "--output_path", tmp_path / "alone"]
        assert run(*out, folder=models) == 0
    expected = written(tmp_path / "alone")
    assert len(expected) == 3 * 4  # answers, likelihoods, samples, results
    assert written(tmp_path / "together") == expected
    printed = capsys.readouterr().out.split("\n")
    assert [line for line in printed if line.endswith(":")] == [
        f"{base}+lora:",
        f"{base}+other_lora:",
        "one:",
    ]


def test_what_is_done_is_not_loaded_again(run, models, tmp_path, capsys):
    shutil.copytree(models / "one", tmp_path / "one")
    out = tmp_path / "out"
    systems = ["--systems", "one", models / "two", "--output_path", out]
    assert run("--model_args", "pretrained=one", "--output_path", out, folder=tmp_path) == 0
    capsys.readouterr()
    assert run(*systems, folder=tmp_path) == 0
    error = capsys.readouterr().err
    assert error.count("12 answers are there already") == 1
    assert error.count("12 answers, ") == 1
    assert run(*systems, folder=tmp_path) == 0
    assert "tokens/s" not in capsys.readouterr().err


def test_places_of_their_own_and_paths_from_another_folder(run, models, small_benchmark, tmp_path):
    """As a study needs it: each system's names and results as if called in its folder."""
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copytree(models / name, tmp_path / "runs" / name / "train")
        arguments = ["--model_args", "pretrained=train", "--output_path", f"../../{name}"]
        assert run(*arguments, folder=tmp_path / "runs" / name) == 0
    alone = {name: written(tmp_path / name) for name in ("one", "two")}
    entries = [
        {
            "pretrained": "train",
            "working_folder": f"runs/{name}",
            "output_path": f"../../together/{name}",
        }
        for name in ("one", "two")
    ]
    config = {"systems": [entries[0]], "log_samples": True}
    (tmp_path / "flags.yaml").write_text(yaml.safe_dump(config))
    assert run("--config", "flags.yaml", folder=tmp_path) == 0
    assert run("--systems", json.dumps(entries[1]), folder=tmp_path) == 0
    assert {name: written(tmp_path / "together" / name) for name in alone} == alone


def test_one_that_fails_does_not_keep_the_others_from_their_results(
    run, models, encoder, tmp_path, capsys
):
    out = tmp_path / "out"
    systems = ["--systems", encoder, "one", "--output_path", out]
    assert run(*systems, folder=models) == 1
    captured = capsys.readouterr()
    assert captured.err.rstrip().split("\n")[-1].startswith("eval-harness run: 1 of 2 systems ")
    assert f"{encoder}: its logits for a token depend on later tokens" in captured.err
    assert len(list(out.glob("one/results_*.json"))) == 1
    assert not list(out.glob("*bert*/results_*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "one", "three"], "--systems three: three: no such folder"),
        (["--systems", "one", "./one"], None),
        (["--systems", "one", "one"], "--systems: one and one would both write"),
        (["--systems", "one", "--model_args", "pretrained=two"], "--systems names the models"),
        (["--systems", '{"output_path": "x"}'], "no pretrained, expected a model folder"),
        (["--systems", '{"pretrained": 3}'], "--systems 3: pretrained = 3, expected a text"),
        (["--systems", '{"pretrained": "one", "devise": "cpu"}'], "did you mean 'device'"),
        (["--systems", '{"pretrained"'], "not JSON"),
    ],
)
def test_bad_input_of_any_system_is_refused_before_anything_is_loaded(
    run, models, tmp_path, capsys, arguments, message
):
    code = run(*arguments, "--output_path", tmp_path / "out", folder=models)
    if message is None:  # two names of one model are two systems
        assert code == 0
        return
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not list(tmp_path.glob("out/**/*.json*"))


def test_a_system_needs_a_place_for_its_results(run, models, capsys):
    assert run("--systems", "one", folder=models) == 2
    assert "--systems one: no output_path, and no --output_path for all" in capsys.readouterr().err


def test_from_python(models, encoder, small_benchmark, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    asked = {"include_path": small_benchmark, "limit": 3, "seeds": [1], "device": "cpu"}
    asked |= {"gen_kwargs": {"max_gen_toks": 4}}
    systems = ["two", {"pretrained": "one", "output_path": tmp_path / "one"}]
    with pytest.raises(Exception, match="expected a text"):
        evaluate_systems(systems, "small", output_path=tmp_path / "out", **asked)
    systems[1]["output_path"] = os.fspath(tmp_path / "one")
    results = evaluate_systems(systems, "small", output_path=tmp_path / "out", **asked)
    assert [result.model_name for result in results] == ["two", "one"]
    own = evaluate("one", "small", output_path=tmp_path / "own", **asked)
    assert own.tasks["small"].samples == results[1].tasks["small"].samples
    assert len(load_systems([str(tmp_path / "one"), str(tmp_path / "out")], backend=None)) == 2
    with pytest.raises(RunFailure, match="1 of 2 systems failed"):
        evaluate_systems(["one", encoder], "small", output_path=tmp_path / "failing", **asked)
    assert list((tmp_path / "failing").glob("one/results_*.json"))


def test_evaluate_systems_takes_what_evaluate_takes():
    from inspect import signature

    from eval_harness.generation.python_request import EvaluationArguments

    own = {"model", "tasks", "output_path", "model_args"}
    assert set(EvaluationArguments.__annotations__) == set(signature(evaluate).parameters) - own
