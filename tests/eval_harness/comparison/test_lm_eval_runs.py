"""Runs of lm-eval in comparisons and reports: what it wrote, paired by row, or refused in one line.

The files have lm-eval 0.4.13's form; results/test_lm_eval_tools.py compares it with a real run.
"""

import json
from pathlib import Path

import pytest
from lm_eval_results import TIME, lm_eval_sample, save_lm_eval
from result_samples import make_results, make_samples, make_task

from eval_harness.cli import main
from eval_harness.results.folder import write_results


def compared(capsys, *folders: Path) -> dict:
    assert main(["compare", "--json", *map(str, folders)]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *folders: Path) -> str:
    assert main(["compare", *map(str, folders)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_fractions_stay_fractions_and_are_paired_by_row(tmp_path, capsys):
    good = save_lm_eval(
        tmp_path / "good", [lm_eval_sample(n, "x", acc=float(n % 4 > 0)) for n in range(40)]
    )
    bad = save_lm_eval(
        tmp_path / "bad", [lm_eval_sample(n, "x", acc=float(n % 4 > 2)) for n in range(40)][::-1]
    )
    result = compared(capsys, good, bad)
    (found,) = result["comparisons"]
    assert (found["metric"], found["num_rows"], found["num_differing"]) == ("acc", 40, 20)
    assert found["difference"] == pytest.approx(0.5)
    assert found["verdict"] == "good scores higher"
    assert result["systems"]["good"]["tasks"]["arc"]["acc,none"] == 0.75
    assert main(["compare", str(good), str(bad)]) == 0
    assert "acc, good - bad: +0.5000 [+0.3" in capsys.readouterr().out


def test_each_filter_has_its_own_score(tmp_path, capsys):
    rows = [lm_eval_sample(n, "x", "strict-match", exact_match=float(n > 1)) for n in range(4)]
    rows += [lm_eval_sample(n, "x", "flexible", exact_match=1.0) for n in reversed(range(4))]
    folders = [save_lm_eval(tmp_path / name, rows) for name in ("a", "b")]
    tasks = compared(capsys, *folders)["systems"]["a"]["tasks"]["arc"]
    assert tasks["exact_match (strict-match),none"] == 0.5
    assert tasks["exact_match (flexible),none"] == 1.0


def test_metrics_without_a_mean_over_rows_are_left_out_by_name(tmp_path, capsys):
    folders = []
    for name in ("a", "b"):
        folder = save_lm_eval(
            tmp_path / name, [lm_eval_sample(n, "x", acc=1.0, bits=0.5) for n in range(3)]
        )
        file = folder / "m" / f"results_{TIME}.json"
        file.write_text(file.read_text().replace('"bits,none": 0.5', '"bits,none": 7.5'))
        folders.append(folder)
    result = compared(capsys, *folders)
    assert [found["metric"] for found in result["comparisons"]] == ["acc"]
    assert "arc: bits of a is no mean over rows: left out" in result["notes"]


def test_choices_have_no_length_and_make_a_report(tmp_path):
    rows = [lm_eval_sample(n, "1", acc=float(n % 2)) for n in range(6)]
    other = [lm_eval_sample(n, "1", acc=1.0) for n in range(6)]
    for row in [*rows, *other]:
        row["resps"] = [[["-1.5", "False"]], [["-2.5", "False"]]]
        row["filtered_resps"] = [["-1.5", "False"], ["-2.5", "False"]]
    folders = [
        save_lm_eval(tmp_path / name, found, output_type="multiple_choice")
        for name, found in (("a", rows), ("b", other))
    ]
    out = tmp_path / "report"
    assert main(["report", *map(str, folders), "--output_path", str(out)]) == 0
    text = (out / "report.md").read_text(encoding="utf-8")
    # Rows without our fields are shown by their prompt.
    assert "Question 0?" in (out / "report.html").read_text(encoding="utf-8")
    assert "| a | 0.5000" in text
    assert "words" not in text
    assert "truncated" not in text


def test_an_exported_task_is_paired_with_ours(tmp_path, capsys):
    ours = make_samples([["the answer", "no"], ["x", "answer"]], references=[["one", "two"], ["x"]])
    write_results(make_results("ours", make_task("sums", ours)), tmp_path)
    theirs = [
        {**lm_eval_sample(n, s.target[0], rougeL=50.0), "doc": {"id": s.row_id}}
        for n, s in enumerate(ours)
    ]
    folder = save_lm_eval(tmp_path / "theirs", theirs, task="distillens_sums")
    result = compared(capsys, folder, tmp_path / "ours")
    assert [(c["task"], c["metric"]) for c in result["comparisons"]] == [("sums", "rougeL")]
    assert "sums: exact_match is not compared, since only ours has it" in result["notes"]
    # The same rows with other references are other questions.
    theirs[0]["target"] = "three"
    other = save_lm_eval(tmp_path / "other", theirs, task="distillens_sums")
    assert "sums has different references in id 'row-0'" in refused(
        capsys, other, tmp_path / "ours"
    )


def test_an_own_task_s_metric_of_our_name_is_no_pair_for_ours(tmp_path, capsys):
    ours = make_samples([["x", "x"], ["y", "z"]], references=[["x"], ["y"]])
    rows = [
        {**lm_eval_sample(n, s.target[0], exact_match=0.5 * n), "doc": {"id": s.row_id}}
        for n, s in enumerate(ours)
    ]
    write_results(make_results("ours", make_task("mytask", ours)), tmp_path)
    folders = [
        save_lm_eval(tmp_path / name, found, task="mytask")
        for name, found in (("one", rows), ("two", [{**row, "exact_match": 1.0} for row in rows]))
    ]
    said = refused(capsys, folders[0], tmp_path / "ours")
    assert "one has exact_match (lm-eval); " in said
    assert "exact_match of lm-eval's own tasks is no pair for ours (other units, other" in said
    # Two runs of lm-eval are a pair, in its unit.
    (found,) = compared(capsys, *folders)["comparisons"]
    assert (found["metric"], found["difference"]) == ("exact_match (lm-eval)", -0.75)
    # Beside a task that can be compared, it is left out by name.
    both = write_results(
        make_results("both", make_task("mytask", ours), make_task("sums", ours)), tmp_path
    )
    exported = [{**row, "exact_match": 100.0 * row["exact_match"]} for row in rows]
    theirs = save_lm_eval(tmp_path / "theirs", rows, task="mytask")
    other = save_lm_eval(tmp_path / "other", exported, task="distillens_sums")
    later = TIME.replace("2026", "2027")
    for file in (other / "m").iterdir():
        file.rename(theirs / "m" / file.name.replace(TIME, later))
    result = compared(capsys, theirs, both.parent)
    assert [(c["task"], c["metric"], c["difference"]) for c in result["comparisons"]] == [
        ("sums", "exact_match", 25.0 - 75.0)
    ]
    (note,) = [note for note in result["notes"] if note.startswith("mytask: ")]
    assert "exact_match of lm-eval's own tasks is no pair for ours" in note
    assert note.endswith(": not compared")


def test_what_cannot_be_paired_is_refused_in_one_line(tmp_path, capsys):
    rows = [lm_eval_sample(n, "x", acc=1.0) for n in range(3)]
    whole = save_lm_eval(tmp_path / "whole", rows)
    assert "answered different rows" in refused(
        capsys, whole, save_lm_eval(tmp_path / "two", rows[:2])
    )
    other = save_lm_eval(tmp_path / "other", [lm_eval_sample(n, "x", f1=1.0) for n in range(3)])
    assert "arc: no metric that all systems have" in refused(capsys, whole, other)
    empty = save_lm_eval(tmp_path / "empty", [lm_eval_sample(n, "x") for n in range(3)])
    assert "no metric that is a mean over rows" in refused(capsys, whole, empty)
    twice = save_lm_eval(tmp_path / "twice", [*rows, rows[0]])
    assert "doc_id 0 is there twice" in refused(capsys, whole, twice)
    next(whole.glob("m/samples_*")).unlink()
    assert "run lm_eval with --log_samples" in refused(capsys, whole, twice)
