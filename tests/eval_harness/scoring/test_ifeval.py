"""IFEval's scores are lm-eval's, with our statistics; what its checker lacks is said before."""

import random
import sys

import numpy as np
import pytest
from judged_rows import IFEVAL

from eval_harness.comparison.compare import compare_systems
from eval_harness.comparison.systems import System
from eval_harness.errors import DistillensError
from eval_harness.results.schema import Sample
from eval_harness.scoring.checked_metrics import CHECKED_METRICS, check_rows
from eval_harness.scoring.ifeval import check_answer
from eval_harness.scoring.row_scores import row_scores
from eval_harness.scoring.score import expected_metrics, score_samples
from eval_harness.scoring.task_metrics import task_metrics
from eval_harness.shared.statistics import bootstrap_interval, compare_paired, row_means

pytest.importorskip("lm_eval", reason="lm-eval is not installed (it is in the dev extra)")
for needed in ("langdetect", "immutabledict", "nltk"):
    pytest.importorskip(needed, reason="lm-eval[ifeval] is not installed (it is in the dev extra)")

# Two answers to each row: what holds differs between rows, seeds, and strict and loose checks.
ANSWERS = [
    ["Hark! We go to Kyoto.", "Hark, we go to Kyoto."],
    ["One rocket.\n******\nA second one.", "Two jokes, now:\nOne rocket.\n******\nA second one."],
    ["Note that it is\nsoft and deep.", "Who is he?"],
    ["Sure, here it is:\n*one* and *two* and *three* and so on", ""],
]
ROWS = IFEVAL[:4]


def samples_of(answers: list[list[str]]) -> list[Sample]:
    return [
        Sample(
            doc_id=place,
            doc={**row, "id": str(row["key"])},
            target=[],
            arguments={},
            resps=texts,
            filtered_resps=texts,
            seeds=[10, 20],
        )
        for place, (row, texts) in enumerate(zip(ROWS, answers, strict=True))
    ]


@pytest.fixture
def scored() -> list[Sample]:
    samples = samples_of(ANSWERS)
    scorer = score_samples(samples, metrics=tuple(CHECKED_METRICS))
    assert scorer.startswith("lm_eval ")
    return samples


def test_the_scores_are_lm_eval_s(scored):
    from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results

    ours = task_metrics(scored)
    theirs: dict[str, list[float]] = {name: [] for name in CHECKED_METRICS}
    for seed in range(2):
        found = [
            process_results(row, [texts[seed]]) for row, texts in zip(ROWS, ANSWERS, strict=True)
        ]
        for name in CHECKED_METRICS:
            values = [row[name] for row in found]
            mean = agg_inst_level_acc(values) if name.startswith("inst") else np.mean(values)
            theirs[name].append(100 * mean)
    for name, by_seed in theirs.items():
        assert ours[f"{name}_per_seed,none"] == pytest.approx(by_seed, abs=1e-3)
        assert ours[f"{name},none"] == pytest.approx(np.mean(by_seed), abs=1e-3)
    # The answers tell the metrics and their two means apart.
    assert len({round(np.mean(values), 3) for values in theirs.values()}) == 4
    assert "rougeL,none" not in ours
    assert "num_scored,none" not in ours


def test_rows_weigh_as_many_times_as_they_have_instructions(scored):
    name = "inst_level_strict_acc"
    weights = np.array([len(row["instruction_id_list"]) for row in ROWS])
    shares = row_means([sample.scores[name] for sample in scored])
    ratio = float((weights * shares).sum() / weights.sum())
    rows = row_means(row_scores(scored, name))
    assert rows.mean() == pytest.approx(ratio)
    # The interval is that of a ratio of sums: rows are resampled with their instructions.
    draws = np.random.default_rng(1).integers(0, len(rows), (20_000, len(rows)))
    ratios = (weights * shares)[draws].sum(1) / weights[draws].sum(1)
    linear = rows[draws].mean(1)
    assert np.corrcoef(ratios, linear)[0, 1] > 0.95
    metrics = task_metrics(scored)
    low, high = bootstrap_interval(rows) or (0, 0)
    assert metrics[f"{name}_ci_low,none"] == pytest.approx(low, abs=1e-3)
    assert metrics[f"{name}_ci_high,none"] == pytest.approx(high, abs=1e-3)


def test_a_difference_is_that_of_the_scores(scored):
    other = samples_of([list(reversed(texts)) for texts in ANSWERS[:2]] + ANSWERS[2:])
    score_samples(other, metrics=tuple(CHECKED_METRICS))
    for name in CHECKED_METRICS:
        rows = [row_means(row_scores(samples, name, paired=True)) for samples in (scored, other)]
        expected = [task_metrics(samples)[f"{name},none"] for samples in (scored, other)]
        assert compare_paired(*rows).difference == pytest.approx(
            expected[0] - expected[1], abs=1e-3
        )


def test_rows_that_both_answer_equally_well_do_not_differ():
    """Only the first row differs: no signs of the others' can make that one improbable."""
    name = "inst_level_strict_acc"
    pair = []
    for first in (100.0, 0.0):
        samples = samples_of(ANSWERS)
        for sample, score in zip(samples, (first, 100.0, 50.0, 0.0), strict=True):
            sample.scores = {name: [score, score]}
        pair.append(samples)
    rows = [row_means(row_scores(samples, name, paired=True)) for samples in pair]
    scores = [task_metrics(samples)[f"{name},none"] for samples in pair]
    assert [found.mean() for found in rows] == pytest.approx(scores, abs=1e-3)
    systems = [
        System(which, which, {"ifeval": samples}, {}, {})
        for which, samples in zip("ab", pair, strict=True)
    ]
    (found,) = compare_systems(systems)
    assert found.paired.difference == pytest.approx(scores[0] - scores[1], abs=1e-3)
    assert (found.paired.num_differing, found.paired.p_value) == (1, 1.0)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (IFEVAL[4], "aaaaa bbbbb ccccc ddddd eeeee #"),
        (
            {
                **IFEVAL[0],
                "instruction_id_list": ["language:response_language"],
                "kwargs": [{"language": "de"}],
            },
            "ja gut so ok",
        ),
    ],
    ids=["a letter is drawn", "a language is guessed"],
)
def test_an_answer_has_one_score_although_the_checker_draws_random_numbers(row, answer):
    state = random.getstate()
    found = [check_answer(row, answer) for _ in range(20)]
    assert all(held == found[0] for held in found)
    assert random.getstate() == state


def test_samples_need_the_metrics_that_they_can_have():
    (sample, *_) = samples_of(ANSWERS)
    asked = ["rougeL", "exact_match", "prompt_level_strict_acc"]
    assert expected_metrics(sample, asked) == ["prompt_level_strict_acc"]
    sample.target = ["text"]
    assert expected_metrics(sample, asked) == asked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "row '7': expected a key and a prompt"),
        ({"kwargs": None}, "row '7': expected lists instruction_id_list and kwargs"),
        ({"instruction_id_list": []}, "row '7': expected lists instruction_id_list and kwargs"),
        ({"kwargs": []}, "row '7': found 0 kwargs, expected an object for each of the 1 instr"),
        ({"instruction_id_list": ["a:b"]}, "row '7': lm-eval knows no instruction 'a:b'"),
        ({"instruction_id_list": [["a"]]}, "row '7': lm-eval knows no instruction"),
        ({"kwargs": [{"commas": 3}]}, "row '7': lm-eval's checker refuses it .TypeError"),
    ],
)
def test_rows_that_are_not_ifeval_s_are_refused(change, message):
    with pytest.raises(DistillensError, match=message):
        check_rows([("7", {**IFEVAL[0], **change})], ["inst_level_loose_acc"])


def test_missing_data_of_nltk_are_named(monkeypatch):
    import nltk

    check_rows([("7", IFEVAL[0])], ["inst_level_loose_acc"])
    monkeypatch.setattr(nltk.data, "path", [])
    counted = {"instruction_id_list": ["length_constraints:number_sentences"]}
    with pytest.raises(DistillensError, match=r"python -m nltk\.downloader punkt_tab, or give"):
        check_rows([("7", {**IFEVAL[0], **counted})], ["inst_level_loose_acc"])


def test_a_checker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(DistillensError, match=r'pip install "lm-eval\[ifeval\]", or give'):
        check_rows([("7", IFEVAL[0])], ["inst_level_loose_acc"])
    check_rows([("7", {})], ["rougeL"])
