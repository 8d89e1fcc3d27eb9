"""Figures of runs show the numbers of their files, for one run and for several."""

import re

import pytest
from run_by_hand import run_by_hand, training, write_lines

from distillens_plugin.reports import run_figures
from distillens_plugin.reports.run_layers import pairs_map
from distillens_plugin.reports.run_records import read_run

OF_RUNS = [name for name in run_figures.__all__ if name != "pairs_figure"]
OF_THE_LENS = ["confidence_figure", "entropy_figure", "readout_figure"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    whole = run_by_hand(folder / "whole")
    part = run_by_hand(folder / "part", num_steps=40, finished=False, seed=11)
    return read_run(whole), read_run(part)


@pytest.mark.parametrize("name", run_figures.__all__)
def test_each_figure_of_one_run(runs, name):
    figure = getattr(run_figures, name)(runs[0])
    assert figure.png.startswith(b"\x89PNG")
    assert "<svg" in figure.svg
    assert re.match(r"[a-z_]+$", figure.name)
    # One sentence at least says how to read it, and its alternative text has something to say.
    assert figure.caption.endswith(".")
    assert len(figure.alt) > 20


@pytest.mark.parametrize("name", OF_RUNS)
def test_each_figure_of_several_runs_names_them(runs, name):
    figure = getattr(run_figures, name)(*runs)
    assert "whole" in figure.svg
    assert "part" in figure.svg


def test_a_run_without_numbers_has_no_figure(tmp_path):
    folder = run_by_hand(tmp_path / "older")
    (folder / "lens.jsonl").unlink()
    older = read_run(folder)
    assert [name for name in OF_RUNS if getattr(run_figures, name)(older) is None] == OF_THE_LENS
    write_lines(folder / "metrics.jsonl", [{"step": 1}])
    begun = read_run(folder)
    assert [name for name in run_figures.__all__ if getattr(run_figures, name)(begun)] == []


def test_runs_with_and_without_lens_readings_share_a_figure(runs, tmp_path):
    folder = run_by_hand(tmp_path / "older")
    (folder / "lens.jsonl").unlink()
    figure = run_figures.entropy_figure(read_run(folder), runs[0])
    assert "whole, step 60" in figure.svg
    assert "older" not in figure.svg


def test_the_map_of_pairs_has_a_row_for_each_pair_and_a_column_for_each_record(runs):
    found = pairs_map(runs[0])
    assert list(found.rows) == ["1-1", "2-2", "3-3"]
    assert list(found.columns) == ["10", "20", "30", "40", "50", "60"]
    assert found.values[1][2] == pytest.approx(training(30)["lens/2-2"])
    assert found.unit == "nats"


def test_many_records_are_averaged_into_few_columns(tmp_path):
    folder = run_by_hand(tmp_path / "long")
    records = [training(step) for step in range(10, 1010, 10)]
    write_lines(folder / "metrics.jsonl", records)
    found = pairs_map(read_run(folder))
    assert len(found.columns) == 20
    assert found.columns[-1] == "1000"
    first = [record["lens/1-1"] for record in records[:5]]
    assert found.values[0][0] == pytest.approx(sum(first) / 5)
    assert run_figures.loss_figure(read_run(folder)) is not None


def test_the_same_numbers_give_the_same_figure(runs):
    first, second = (run_figures.entropy_figure(runs[0]) for _ in range(2))
    assert first == second


def test_names_with_signs_of_mathematics_are_text(tmp_path):
    folder = run_by_hand(tmp_path / "a$_{b$}")
    other = run_by_hand(tmp_path / "<b> & 'c'")
    figure = run_figures.validation_figure(read_run(folder), read_run(other))
    assert "a$_{b$}" in figure.svg
    assert "&lt;b&gt; &amp;" in figure.svg
