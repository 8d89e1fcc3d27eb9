"""When a run evaluates, saves and stops early; and the keys that say so."""

import pytest
from forked_run import quick_recipe
from run_process import change

from distillens_plugin.preflight.run_length import check_enough_rows, check_intervals
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.by_steps import EarlyStopping
from distillens_plugin.training.early_stopping import judge
from distillens_plugin.training.history import History
from distillens_plugin.training.schedule import Schedule
from eval_harness.errors import DistillensError


def steps_of(schedule, num_steps):
    per_epoch = schedule.steps_per_epoch
    return [s for s in range(1, num_steps + 1) if schedule.saves(s, ends_epoch=s % per_epoch == 0)]


@pytest.mark.parametrize(
    ("save_every", "steps_per_epoch", "expected"),
    [
        (None, 4, [4, 8, 12]),
        (5, 4, [5, 10]),
        (5.0, 4, [5, 10]),
        (1, 4, list(range(1, 13))),
        (0.5, 4, [2, 4, 6, 8, 10, 12]),
        # Not a whole number of steps: the epochs' ends are met all the same.
        (0.25, 6, [2, 3, 5, 6, 8, 9, 11, 12]),
        (0.1, 10, list(range(1, 13))),
        (0.4, 5, [2, 4, 6, 8, 10, 12]),
        (100, 4, []),
    ],
)
def test_steps_at_which_a_run_saves(save_every, steps_per_epoch, expected):
    schedule = Schedule(save_every=save_every, steps_per_epoch=steps_per_epoch)
    assert steps_of(schedule, 12) == expected


def test_evaluations_have_an_interval_of_their_own():
    schedule = Schedule(save_every=4, eval_every=0.5, steps_per_epoch=4)
    found = [(s, schedule.evaluates(s, ends_epoch=s == 4)) for s in (1, 2, 3, 4)]
    assert found == [(1, False), (2, True), (3, False), (4, True)]
    assert not schedule.saves(2, ends_epoch=False)


def judged(scores, *, higher_is_better=False, **settings):
    """The number of evaluations until the end, and its reason."""
    history = History()
    for number, score in enumerate(scores, start=1):
        judge(
            history,
            score,
            EarlyStopping(**settings),
            score_name="rougeL" if higher_is_better else "validation_loss",
            higher_is_better=higher_is_better,
        )
        if history.stopped is not None:
            return number, history.stopped
    return None, None


def test_a_run_stops_when_its_score_no_longer_improves():
    number, reason = judged([3.0, 2.0, 2.5, 2.1, 1.9], patience=2)
    assert number == 4
    assert reason == "validation_loss did not improve in 2 evaluations; it was 2.0000"
    assert judged([3.0, 2.0, 2.5, 1.9, 2.0, 1.8], patience=2) == (None, None)
    assert judged([3.0, 3.0], patience=1)[0] == 2
    number, reason = judged([1.0, 4.0, 3.0, 4.0], patience=2, higher_is_better=True)
    assert number == 4
    assert reason.startswith("rougeL did not improve in 2")


def test_small_improvements_add_up_to_one_that_counts():
    assert judged([3.0, 2.95, 2.89, 2.84], patience=2, min_delta=0.1) == (None, None)
    number, reason = judged([3.0, 2.95, 2.91], patience=2, min_delta=0.1)
    assert number == 3
    assert "did not improve by more than 0.1 in" in reason


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return quick_recipe(tmp_path_factory.mktemp("schedule"))


def loaded(path, *settings):
    return load_recipe(str(path), overrides=list(settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.save_every=0"], "train.save_every: found 0, expected a whole number of steps"),
        (["train.eval_every=1.5"], "found 1.5, expected a whole number of steps, or a fraction of"),
        (["train.eval_every=true"], "found true, expected a number"),
        (["train.save_every=.nan"], "train.save_every: found nan, expected a whole number of st"),
        (["train.keep_last=3"], "train.keep_last: found 3"),
        (["train.early_stopping={}"], "train.early_stopping.patience: missing"),
        (["train.early_stopping={patience: 0}"], "patience: found 0"),
        (["train.early_stopping={patience: 1, min_delta: -1}"], "min_delta: found -1"),
        (
            ["train.eval_every=2", "datasets.validation=null"],
            "train.eval_every: there is nothing to evaluate without datasets.validation",
        ),
        (
            ["train.early_stopping={patience: 1}", "datasets.validation=null"],
            "train.early_stopping: there is nothing to evaluate",
        ),
        (["train.keep_last=1", "resumable=false"], "train.keep_last: found resumable: false"),
    ],
)
def test_keys_that_make_no_sense_are_refused(recipe, settings, expected):
    with pytest.raises(DistillensError) as refused:
        loaded(recipe, *settings)
    assert expected in str(refused.value)


def test_a_fraction_of_less_than_a_step_is_refused(recipe):
    # Six rows in batches of three: two steps.
    found = loaded(recipe, "train.save_every=0.5", "train.eval_every=0.4")
    with pytest.raises(DistillensError, match=r"train\.eval_every: found 0\.4 of an epoch, which"):
        check_enough_rows(found, 6, 1)
    check_enough_rows(found, 9, 1)
    check_intervals(loaded(recipe, "train.save_every=0.5"), 2)
    with pytest.raises(DistillensError, match=r"save_every: found 0\.5 of an epoch, which has 1 s"):
        check_intervals(found, 1)


def test_a_null_leaves_the_default(recipe):
    change(recipe, "train.save_every", None)
    found = loaded(recipe).train
    assert (found.save_every, found.eval_every, found.early_stopping) == (None, None, None)
    assert found.keep_last == 2
