"""A node's own files are never taken for copies of a study, nor replaced or removed."""

from pathlib import Path

import pytest

from distillens_plugin.study.cluster_worker import Task, clear, look_around, run_task
from eval_harness.errors import RunFailure


def task(study: Path) -> Task:
    run = study / "main" / "lens" / "seed_1"
    return Task(
        arguments=("-c", "pass"),
        log=run / "log.txt",
        working_folder=study.parent,
        environment={},
        trusted=False,
        writes=(run / "train",),
        study=study,
        mark=study / ".shared-0",
        parcels=(),
    )


def test_results_of_the_nodes_own_are_neither_replaced_nor_removed(tmp_path):
    study = tmp_path / "out"
    own = study / "main" / "lens" / "seed_1" / "train" / "summary.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    mark = study / ".shared-0"
    report = look_around(mark, mark.name, study / ".shared-0.1", [])
    assert (report.shared, report.has_another) == (False, True)
    with pytest.raises(RunFailure, match=r"a folder .* of its own"):
        run_task(task(study))
    clear(study, mark)
    assert own.read_text() == "{}"


@pytest.mark.parametrize("begin", ["absent", "empty", "copies"])
def test_copies_are_removed_at_the_end(tmp_path, begin, monkeypatch):
    """Those of a study that was killed, too."""
    monkeypatch.setattr("distillens_plugin.study.cluster_worker.store", lambda root, paths: [])
    study = tmp_path / "out"
    if begin != "absent":
        study.mkdir()
    if begin == "copies":
        assert run_task(task(study)).code == 0
    mark = study / ".shared-0"
    assert not look_around(mark, mark.name, study / ".shared-0.1", []).has_another
    assert run_task(task(study)).code == 0
    clear(study, mark)
    assert not study.exists()
