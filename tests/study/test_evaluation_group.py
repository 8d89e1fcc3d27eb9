"""Runs of a study that are evaluated in one process: the same results, and nobody's loss."""

import json
import shutil

import pytest
from tiny_study import fake_run, tiny_study

from distillens_plugin.study.evaluation import evaluation_folder, is_evaluated, read_scores
from distillens_plugin.study.evaluation_group import group_jobs, in_groups
from distillens_plugin.study.load import load_study
from distillens_plugin.study.local import LocalExecutor
from distillens_plugin.study.plan import make_run
from distillens_plugin.study.runner import Runner

METHODS = {"sft": {"set": {"lens_weight": 0.1}}, "lens": {"set": {"lens_weight": 0.5}}}


@pytest.fixture
def trained(tmp_path):
    """A study whose four runs are trained, to a model each: the teacher's."""
    path = study_with(tmp_path, together=True)
    for run in runs_of(path):
        fake_run(run.folder, run.fingerprint, losses={3: 2.0})
        shutil.copytree(tmp_path / "teacher", run.train_folder / "best")
    return path


def study_with(folder, **changes):
    evaluation = {
        "tasks": ["gsm8k"],
        "data": {"gsm8k": "./rows.jsonl"},
        "protocols": ["greedy"],
        "limit": 3,
        "gen_kwargs": {"max_new_tokens": 4},
        **changes,
    }
    return tiny_study(folder, methods=METHODS, evaluation=evaluation)


def runs_of(path):
    study = load_study(path)
    return [make_run(study, "main", name, seed) for name in study.methods for seed in study.seeds]


def run(path):
    """What failed of the study."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    executor = LocalExecutor([environment], trusted=False)
    return Runner(load_study(path), executor, overwrite=False).run()


def log(run):
    return (run.folder / "log.txt").read_text(encoding="utf-8")


def test_one_command_evaluates_all_runs_and_a_failing_one_costs_nobody_else_anything(
    trained, capsys
):
    assert run(trained) == {}
    assert "[1/1] evaluation/greedy of 4 runs done in " in capsys.readouterr().out
    runs = runs_of(trained)
    for one in runs:
        assert is_evaluated(one, "greedy", overwrite=False)
        # Its names are those of a command in its own folder.
        (results,) = evaluation_folder(one, "greedy").glob("train__best/results_*.json")
        content = json.loads(results.read_text())
        assert content["config"]["model_args"] == {"pretrained": "train/best"}
        assert log(one).rstrip() == (
            "evaluation/greedy: with other runs; printed to ../../../evaluation/greedy_1.log"
        )
    printed = trained.parent / "out" / "evaluation" / "greedy_1.log"
    assert "system 4 of 4: train/best" in printed.read_text()
    scores = [read_scores(one) for one in runs]
    assert {metric for _, _, metric in scores[0]} >= {"rougeL", "nll"}

    # Two are to be evaluated again; the weights of one are gone.
    before = [evaluation_folder(one, "greedy").stat().st_mtime_ns for one in runs]
    for one in runs[:2]:
        shutil.rmtree(evaluation_folder(one, "greedy"))
    (runs[1].train_folder / "best" / "model.safetensors").unlink()
    assert list(run(trained)) == [runs[1].name]
    assert "what they left is evaluated run by run" in capsys.readouterr().out
    assert is_evaluated(runs[0], "greedy", overwrite=False)
    assert "no model.safetensors" in log(runs[1]).replace(" weights", " model.safetensors")
    assert [evaluation_folder(one, "greedy").stat().st_mtime_ns for one in runs[2:]] == before[2:]


def test_groups_are_divided_among_gpus_and_one_run_is_no_group(trained):
    runs = runs_of(trained)

    def sizes(slots, runs=runs):
        executor = LocalExecutor([{}] * slots, trusted=False)
        return [
            job.commands[0].arguments[job.commands[0].arguments.index("--systems") + 1 :]
            for job in group_jobs(runs, executor, overwrite=False)
        ]

    assert [len(entries) for entries in sizes(1)] == [4]
    assert [len(entries) for entries in sizes(2)] == [2, 2]
    assert [len(entries) for entries in sizes(3)] == [2, 2]
    assert sizes(4) == []
    assert sizes(1, runs[:1]) == []


def test_runs_are_grouped_with_vllm_unless_the_study_says_otherwise(tmp_path):
    local = LocalExecutor([{}], trusted=False)
    cases = [({}, False), ({"model": "vllm"}, True), ({"model": "vllm", "together": False}, False)]
    for number, (changes, expected) in enumerate(cases):
        study = load_study(study_with(tmp_path / str(number), **changes))
        assert in_groups(study, local) is expected
    local.takes_groups = False
    assert not in_groups(study, local)


def test_how_runs_are_grouped_leaves_what_is_evaluated_as_it_was(trained):
    run = runs_of(trained)[0]
    folder = evaluation_folder(run, "greedy")
    job = group_jobs(runs_of(trained), LocalExecutor([{}], trusted=False), overwrite=False)[0]
    job.commands[0].before()
    job.commands[0].after(8.0)
    assert json.loads((folder / "done.json").read_text())["seconds"] == 2.0
    alone = study_with(trained.parent, together=False)
    assert is_evaluated(runs_of(alone)[0], "greedy", overwrite=False)
