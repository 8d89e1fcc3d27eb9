"""The study's table: cells, paired differences, Holm, and when a difference counts as shown."""

import numpy as np
import pytest

from distillens_plugin.study.evaluation import NLL, RowScores
from distillens_plugin.study.report.table import (
    BETTER,
    VALIDATION_NLL,
    WORSE,
    MethodScores,
    Metric,
    make_table,
)
from eval_harness.comparison.compare import NO_DIFFERENCE
from eval_harness.errors import DistillensError
from eval_harness.shared.statistics import bootstrap_interval, compare_paired, holm

ROUGE = Metric("gsm8k", "default", "rougeL")
LOSS = Metric("gsm8k", "default", NLL)
IDS = tuple(f"row-{i}" for i in range(60))


def scores(shift, *, seeds=(1, 2, 3), spread=0.0, ids=IDS, metric=ROUGE, validation=None):
    """Rows around 20; `shift` for each training seed or all, `spread` of rows between methods."""
    base = 20 + 5 * np.random.default_rng(0).standard_normal(len(ids))
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(seeds)
    noise = np.random.default_rng(int(100 * spread)).standard_normal(len(ids)) * spread
    rows = {s: RowScores(ids, base + d + noise) for s, d in zip(seeds, shifts, strict=True)}
    return MethodScores({metric: rows}, validation or {})


def difference(table, method, metric=ROUGE):
    return next(d for d in table.differences if (d.method, d.metric) == (method, metric))


def test_cells_are_means_over_seeds_and_rows_with_the_rows_interval():
    method = scores((0.0, 1.0, 2.0))
    cell = make_table({"a": method}, {}).cells["a"][ROUGE]
    rows = np.mean([found.values for found in method.rows[ROUGE].values()], axis=0)
    assert cell.mean == pytest.approx(rows.mean())
    assert cell.interval == bootstrap_interval(rows)
    assert cell.num_rows == len(IDS)
    assert cell.seed_deviation == pytest.approx(1.0)


def test_a_difference_that_rows_and_seeds_show_is_better_or_worse():
    table = make_table(
        {"base": scores(0.0), "up": scores(2.0, spread=1.0), "down": scores(-2.0, spread=1.1)},
        {"up": ["base"], "down": ["base"]},
    )
    assert difference(table, "up").verdict == BETTER
    assert difference(table, "down").verdict == WORSE
    assert difference(table, "up").adjusted_p < 0.05


def test_of_a_loss_less_is_better():
    table = make_table(
        {"base": scores(0.0, metric=LOSS), "low": scores(-2.0, spread=1.0, metric=LOSS)},
        {"low": ["base"]},
    )
    assert difference(table, "low", LOSS).paired.difference < 0
    assert difference(table, "low", LOSS).verdict == BETTER


def test_noise_alone_is_no_difference():
    table = make_table({"base": scores(0.0), "same": scores(0.0, spread=3.0)}, {"same": ["base"]})
    assert difference(table, "same").verdict == NO_DIFFERENCE
    assert difference(table, "same").paired.smallest_detectable > 0


def test_rows_that_show_a_difference_are_not_enough_where_seeds_disagree():
    table = make_table(
        {"base": scores(0.0), "luck": scores((6.0, -2.0, -1.0), spread=0.5)}, {"luck": ["base"]}
    )
    found = difference(table, "luck")
    assert found.adjusted_p < 0.05
    assert found.paired.low > 0
    assert found.verdict == NO_DIFFERENCE
    assert "training seeds" in found.reason


def test_a_verdict_from_one_training_seed_says_so():
    up = scores(2.0, seeds=(1,), spread=1.0)
    table = make_table({"base": scores(0.0), "up": up}, {"up": ["base"]})
    found = difference(table, "up")
    assert (found.seeds, found.seed_interval, found.verdict) == ((1,), None, BETTER)
    assert found.reason == "from one training seed"


def test_differences_by_row_are_of_the_scores_to_subtract():
    """As of IFEval's instructions: rows that both answer alike must not differ."""
    values = scores(0.0).rows[ROUGE][1].values
    equal = np.full(len(IDS), 3.0)
    other = np.where(np.arange(len(IDS)) == 0, 4.0, 3.0)
    base, up = (
        MethodScores({ROUGE: {seed: RowScores(IDS, values + shift, rows) for seed in (1, 2)}}, {})
        for shift, rows in ((0.0, equal), (1 / 60, other))
    )
    table = make_table({"base": base, "up": up}, {"up": ["base"]})
    found = difference(table, "up").paired
    assert (found.num_differing, found.p_value) == (1, 1.0)
    assert found.difference == pytest.approx(1 / 60)
    assert table.cells["up"][ROUGE].mean == pytest.approx(values.mean() + 1 / 60)


def test_holm_is_over_all_differences_of_a_metric():
    methods = {f"m{i}": scores(0.4 + 0.1 * i, spread=2.0 + i / 10) for i in range(5)}
    table = make_table({"base": scores(0.0), **methods}, {name: ["base"] for name in methods})
    found = [difference(table, name) for name in methods]
    raw = [d.paired.p_value for d in found]
    assert [d.adjusted_p for d in found] == pytest.approx(holm(raw))
    assert max(a - p for a, p in zip((d.adjusted_p for d in found), raw, strict=True)) > 0
    base = np.mean([s.values for s in scores(0.0).rows[ROUGE].values()], axis=0)
    ours = np.mean([s.values for s in methods["m0"].rows[ROUGE].values()], axis=0)
    assert found[0].paired.p_value == compare_paired(ours, base).p_value
    assert found[0].paired.smallest_detectable > compare_paired(ours, base).smallest_detectable


def test_two_that_name_each_other_are_compared_once():
    methods = {"sft": scores(0.0), "fkl": scores(1.0, spread=4.0), "lens": scores(1.0, spread=5.0)}
    both = ["sft", "fkl"]
    references = {name: [other for other in both if other != name] for name in methods}
    table = make_table(methods, references)
    found = [(d.method, d.reference) for d in table.differences]
    assert found == [("fkl", "sft"), ("lens", "sft"), ("lens", "fkl")]
    expected = holm([d.paired.p_value for d in table.differences])
    assert [d.adjusted_p for d in table.differences] == pytest.approx(expected)


def test_validation_losses_are_compared_over_common_seeds_and_few_seeds_say_so():
    table = make_table(
        {
            "base": scores(0.0, validation={1: 4.0, 2: 4.1, 3: 4.2}),
            "lens": scores(0.0, validation={1: 3.9, 2: 4.0, 4: 9.0}),
        },
        {"lens": ["base"]},
    )
    found = difference(table, "lens", VALIDATION_NLL)
    assert found.seeds == (1, 2)
    assert found.paired.difference == pytest.approx(-0.1)
    assert found.verdict == NO_DIFFERENCE
    assert "2 seeds cannot show one: the smallest possible p is 0.5000" in found.reason


def test_enough_seeds_show_a_difference_in_validation_loss():
    seeds = range(8)
    table = make_table(
        {
            "base": scores(0.0, validation={s: 4.0 + 0.01 * s for s in seeds}),
            "lens": scores(0.0, validation={s: 3.9 + 0.012 * s for s in seeds}),
        },
        {"lens": ["base"]},
    )
    assert difference(table, "lens", VALIDATION_NLL).verdict == BETTER


def test_methods_without_runs_are_left_out():
    table = make_table({"a": scores(0.0)}, {"a": ["gone"]})
    assert table.differences == []


def test_other_rows_are_refused():
    others = tuple(f"other-{i}" for i in range(60))
    with pytest.raises(DistillensError, match="answered different rows"):
        make_table({"a": scores(0.0), "b": scores(0.0, ids=others)}, {"b": ["a"]})
