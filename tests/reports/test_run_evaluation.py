"""Evaluations of a run's models are found by the models' files, not by what folders are called."""

import json
import re
import shutil
from urllib.parse import unquote

import pytest
from code_blocks import blocks_of
from run_by_hand import run_by_hand
from shell import shell
from tiny_run import save_tiny_model

from distillens_plugin.reports import run_evaluation
from distillens_plugin.reports.run_evaluation import find_evaluations
from distillens_plugin.reports.run_records import read_run
from eval_harness import evaluate
from eval_harness.errors import DistillensError


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run whose best model was evaluated elsewhere on two rows; and the results' folder."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = run_by_hand(folder / "run")
    save_tiny_model(run / "best", layers=1)
    return run, evaluate_best(folder, "out")


def evaluate_best(folder, name):
    """Evaluates the run's best model on two rows; the folder of the results."""
    rows = [{"instruction": f"What is {n} + {n}?", "output": str(2 * n)} for n in (1, 2)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text("task: sums\ndescription: Sums\npath: sums.jsonl\n")
    evaluate(
        str(folder / "run" / "best"),
        str(folder / "sums.yaml"),
        output_path=folder / name,
        protocol="greedy",
        gen_kwargs={"max_new_tokens": 4},
        max_prompt_tokens=64,
    )
    return folder / name


def test_named_results_are_of_the_best_model(evaluated):
    run, out = evaluated
    (found,), notes = find_evaluations([read_run(run)], [out])
    assert (found.run, found.model, found.changed) == ("run", "best", False)
    assert (found.task, found.protocol, found.num_rows) == ("sums", "greedy", 2)
    value, error = found.scores["rougeL"]
    assert 0 <= value <= 100
    assert error is not None
    assert notes == []


def test_results_beside_a_run_are_found_alone(evaluated, tmp_path):
    run, out = evaluated
    # A study keeps an evaluation beside the folder that it trained in.
    shutil.copytree(run, tmp_path / "train")
    shutil.copytree(out, tmp_path / "evaluation")
    (found,), _ = find_evaluations([read_run(tmp_path / "train")])
    assert (found.model, found.changed) == ("best", False)
    assert tmp_path / "evaluation" in found.source.resolve().parents


def test_results_of_files_that_have_changed_say_so(evaluated):
    run, out = evaluated
    config = run / "best" / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    try:
        (found,), _ = find_evaluations([read_run(run)], [out])
        assert found.changed
    finally:
        config.write_text(before)


def test_results_of_the_model_as_it_is_go_before_those_of_older_files(evaluated, tmp_path):
    run, out = evaluated
    config = run / "best" / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    try:
        older = evaluate_best(run.parent, "of_older_files")
    finally:
        config.write_text(before)
    here = run / "evaluation"
    try:
        # Read last, and evaluated last, but of files that the model no longer has.
        shutil.copytree(older, here / "b")
        (found,), _ = find_evaluations([read_run(run)], [out])
        assert (found.changed, out in found.source.parents) == (False, True)
        shutil.copytree(out, here / "a")
        (found,), _ = find_evaluations([read_run(run)])
        assert (found.changed, (here / "a").resolve() in found.source.parents) == (False, True)
        (found,), _ = find_evaluations([read_run(run)], [older])
        assert not found.changed
    finally:
        shutil.rmtree(here)


def test_of_equal_results_the_named_one_is_shown_else_the_latest(evaluated, tmp_path):
    run, out = evaluated
    named = dated_copy(out, tmp_path / "named", 1.0)
    here = (run / "evaluation").resolve()
    try:
        dated_copy(out, here / "a", 3.0)
        dated_copy(out, here / "b", 2.0)
        (found,), _ = find_evaluations([read_run(run)])
        assert here / "a" in found.source.parents
        (found,), _ = find_evaluations([read_run(run)], [named])
        assert named in found.source.parents
    finally:
        shutil.rmtree(here)


def dated_copy(results, folder, date):
    shutil.copytree(results, folder)
    (file,) = folder.rglob("results_*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "date": date}))
    return folder


def test_weights_are_not_read_where_nothing_was_evaluated(evaluated, monkeypatch):
    run, _ = evaluated
    monkeypatch.setattr(run_evaluation, "files_digest", lambda path: pytest.fail(f"read {path}"))
    assert find_evaluations([read_run(run)]) == ([], [])


def test_results_of_another_model_are_refused(evaluated, tmp_path):
    _, out = evaluated
    other = run_by_hand(tmp_path / "other")
    with pytest.raises(DistillensError, match=r"these runs' models \(no saved model"):
        find_evaluations([read_run(other)], [out])
    with pytest.raises(DistillensError, match=r"holds no results_\*\.json"):
        find_evaluations([read_run(other)], [tmp_path])


def test_a_foreign_file_beside_a_run_is_a_note(evaluated, tmp_path):
    other = run_by_hand(tmp_path / "other")
    (other / "evaluation").mkdir()
    (other / "evaluation" / "results_1.json").write_text("{}")
    found, (note,) = find_evaluations([read_run(other)])
    assert found == []
    assert "results_1.json" in note


def test_the_command_of_the_documentation(evaluated, tmp_path, repo):
    """docs/reports.md: an evaluation that lies elsewhere is named."""
    (block,) = [
        b for b in blocks_of(repo / "docs" / "reports.md") if __file__.endswith(b.run_by or "-")
    ]
    run, out = evaluated
    shutil.copytree(run, tmp_path / "runs" / "quickstart")
    shutil.copytree(out, tmp_path / "out" / "student")
    shell(block.text, tmp_path)
    page = (tmp_path / "runs/quickstart/report/report.html").read_text(encoding="utf-8")
    assert "rougeL" in page
    source = re.search(r'href="(\.\./\.\./\.\./out/student/[^"]+\.json)"', page)
    assert (tmp_path / "runs/quickstart/report" / unquote(source[1])).is_file()
