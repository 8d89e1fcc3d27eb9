"""The search: what decides it, what only interrupts it, and what it needs."""

import pytest
from tiny_study import METHODS, fake_divergence, fake_run, run_study, tiny_study

from distillens_plugin.study.load import load_study
from distillens_plugin.study.runner import Runner, main_runs
from distillens_plugin.study.search import Choice, finished_search, search_so_far, stage_runs
from eval_harness.errors import DistillensError


def searched(folder, grid, **changes):
    methods = {"lens": {"tune": grid}}
    return load_study(
        tiny_study(folder, methods=methods, compare_to=[], tune={"seeds": [7]}, **changes)
    )


def test_a_setting_whose_loss_was_not_finite_is_out_and_not_tried_again(tmp_path):
    study = searched(tmp_path, {"lr": [1e-3, 2e-3]})
    good, bad = stage_runs(study, "lens", 0, {})
    fake_run(good.folder, good.fingerprint, losses={3: 5.0})
    fake_divergence(bad.folder, bad.fingerprint)
    choice, missing = finished_search(study, "lens", overwrite=False)
    assert (choice.settings, missing, choice.missing) == ({"lr": 1e-3}, [], [])
    assert [entry.has_diverged for entry in choice.tried] == [False, True]
    other = searched(tmp_path / "other", {"lr": [1e-3, 2e-3]})
    # A note under another recipe says nothing.
    fake_divergence(stage_runs(other, "lens", 0, {})[0].folder, "another")
    assert len(finished_search(other, "lens", overwrite=False)[1]) == 2


def test_a_search_in_which_every_loss_was_not_finite_has_no_final_runs(tmp_path):
    study = searched(tmp_path, {"lr": [1e-3]})
    (bad,) = stage_runs(study, "lens", 0, {})
    fake_divergence(bad.folder, bad.fingerprint)
    choices, _ = search_so_far(study)
    assert choices["lens"].failed
    assert main_runs(study, choices) == {}


class _Full:
    """An executor on which one run fails as on a full disk, and the others are done at once."""

    limit, poll_s, takes_groups = 1, 0.0, False

    def __init__(self, study, unlucky):
        self._study, self._unlucky, self.names = study, unlucky, []

    def at_once(self):
        return 1

    def start(self, command, lock):
        name = str(command.log.parent.relative_to(self._study.output_dir))
        self.names.append(name)
        if name == self._unlucky:
            raise DistillensError("cannot write: No space left on device")
        runs = [
            *stage_runs(self._study, "lens", 0, {}),
            *main_runs(self._study, _choices())["lens"],
        ]
        run = next(run for run in runs if run.name == name)
        (run.folder / "run.json").unlink()
        run.folder.rmdir()
        fake_run(run.folder, run.fingerprint, losses={3: 4.0})
        return _Done()

    def end(self, started):
        pass


class _Done:
    def poll(self):
        from distillens_plugin.study.executor import Ended

        return Ended(1.0)


def _choices():
    return {"lens": Choice(settings={"lr": 2e-3})}


def test_a_run_that_failed_otherwise_stops_the_search_and_decides_nothing(tmp_path, capsys):
    study = searched(tmp_path, {"lr": [1e-3, 2e-3]}, evaluation=None)
    executor = _Full(study, "tune/lens/lr=0.001/seed_7")
    failed = Runner(study, executor, overwrite=False).run()
    assert executor.names == ["tune/lens/lr=0.001/seed_7", "tune/lens/lr=0.002/seed_7"]
    assert "No space left" in failed["tune/lens/lr=0.001/seed_7"]
    assert "the search lacks tune/lens/lr=0.001/seed_7; mend what stopped it" in failed["tune/lens"]
    assert "best of" not in capsys.readouterr().out


def test_a_real_run_whose_loss_is_not_finite_leaves_its_note(tmp_path):
    methods = {"sft": {"fragments": [str(METHODS / "sft.yaml")], "tune": {"lr": [1e-3, 1e30]}}}
    path = tiny_study(
        tmp_path, methods=methods, compare_to=[], tune={"seeds": [7]}, evaluation=None, seeds=[1]
    )
    done = run_study(path)
    assert done.returncode == 1
    folder = tmp_path / "out" / "tune" / "sft" / "lr=1e+30" / "seed_7" / "train"
    assert "not finite" in (folder / "diverged.json").read_text(encoding="utf-8")
    assert "sft: best of 2 settings (1 diverged): lr 0.001" in done.stdout
    assert "| sft | lr 1e+30 | diverged |" in (tmp_path / "out" / "report.md").read_text("utf-8")
    # What is decided is not tried again.
    again = run_study(path)
    assert again.returncode == 0, again.stderr
    assert "search, grid 1: 2 runs, 2 of them done already" in again.stdout


def test_a_search_without_validation_rows_is_refused_before_it_starts(tmp_path):
    study = searched(tmp_path, {"lr": [1e-3]}, set={"datasets.validation": None})
    with pytest.raises(DistillensError, match="a search compares validation losses; add it, or"):
        assert stage_runs(study, "lens", 0, {})[0].recipe


def test_the_search_judges_the_model_that_is_evaluated(tmp_path):
    for checkpoint, best in (("best", 1e-3), ("last", 2e-3)):
        folder = tmp_path / checkpoint
        evaluation = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}}
        study = searched(
            folder, {"lr": [1e-3, 2e-3]}, evaluation={**evaluation, "checkpoint": checkpoint}
        )
        first, second = stage_runs(study, "lens", 0, {})
        fake_run(first.folder, first.fingerprint, losses={1: 3.0, 3: 5.0})
        fake_run(second.folder, second.fingerprint, losses={1: 4.5, 3: 4.0})
        assert search_so_far(study)[0]["lens"].settings == {"lr": best}
