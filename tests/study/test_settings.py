"""Settings of a study: which of several wins, and those that would be lost or have no effect."""

import pytest
from tiny_study import METHODS, tiny_study

from distillens_plugin.study.evaluation import check_evaluation
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from eval_harness.errors import DistillensError

RKL = str(METHODS / "rkl.yaml")
LENS = "train.criterion.kwargs.sub_terms.lens"
EVALUATION = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}}


def test_a_key_for_all_that_undoes_a_methods_fragment_is_refused(tmp_path):
    methods = {"rkl": {"fragments": [RKL]}}
    path = tiny_study(tmp_path, set={"kd": "fkl"}, methods=methods, compare_to=[])
    expected = r"study.yaml:\d+: set: sets train\.\S+\.divergence for every method, which would "
    with pytest.raises(DistillensError, match=expected + r"replace what \S+rkl.yaml sets for rkl"):
        load_study(path)


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"kd": "fkl"}, {"kd": "fkl"}),  # the method says that it wants it
        ({"kd": "rkl"}, {}),  # the same value
        ({"lr": 2e-3}, {}),
    ],
)
def test_a_key_for_all_beside_a_fragment_is_taken(tmp_path, given, own):
    methods = {"rkl": {"fragments": [RKL], "set": own}}
    study = load_study(tiny_study(tmp_path, set=given, methods=methods, compare_to=[]))
    kd = make_run(study, "main", "rkl", 1).recipe.train.criterion.kwargs.sub_terms["kd"]
    assert kd.criterion.kwargs["divergence"] == {**given, **own}.get("kd", "rkl")


def test_a_searched_value_is_not_replaced_by_a_key_above_it(tmp_path):
    kwargs = {"layers": {"student": [1], "teacher": [2]}}
    lens = {"criterion": {"key": "DistillLensLoss", "kwargs": kwargs}, "weight": 3.0}
    methods = {"lens": {"set": {LENS: lens}, "tune": {"lens_weight": [0.25, 10.0]}}}
    path = tiny_study(
        tmp_path,
        set={"lens_weight": 1.0},
        methods=methods,
        compare_to=[],
        tune={"seeds": [7]},
    )
    run = make_run(load_study(path), "tune", "lens", 7, chosen={"lens_weight": 0.25})
    assert run.recipe.train.criterion.kwargs.sub_terms["lens"].weight == 0.25
    final = make_run(load_study(path), "main", "lens", 1)
    assert final.recipe.train.criterion.kwargs.sub_terms["lens"].weight == 3.0


def test_sampling_seeds_without_a_protocol_that_samples_are_refused(tmp_path):
    evaluation = {**EVALUATION, "protocols": ["greedy"], "seeds": [10]}
    with pytest.raises(DistillensError, match=r"evaluation.seeds: found \[10\], but no protocol"):
        check_evaluation(load_study(tiny_study(tmp_path, evaluation=evaluation)))
    evaluation["protocols"] = ["greedy", "default"]
    check_evaluation(load_study(tiny_study(tmp_path / "both", evaluation=evaluation)))


def test_the_clock_is_not_among_the_methods_that_get_its_time(tmp_path):
    budget = {"equal_compute": {"clock": "lens", "methods": ["sft", "lens"]}}
    with pytest.raises(DistillensError, match=r"methods: found lens, which is the clock"):
        load_study(tiny_study(tmp_path, budget=budget))
