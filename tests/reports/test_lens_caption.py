"""What a report says of a lens that reads by the teacher's readout, or not every position."""

import copy
import html
import json

from run_by_hand import RECIPE, run_by_hand, training, write_lines

from distillens_plugin.reports import run_figures
from distillens_plugin.reports.run_choices import layer_maps
from distillens_plugin.reports.run_layers import pairs_map
from distillens_plugin.reports.run_records import read_run
from distillens_plugin.reports.run_report import write_run_report

LAYERS = {"student": [1, 2, 3], "teacher": [1, 2, 3]}
OWN_HEADS = "Each model is read by its own head, although the lens was trained through the teacher"
BY_MAP = "Both layers are read through the teacher's unembedding, the student's by a trained map."
QUARTER = "Each value is an estimate from 25 % of the supervised positions, drawn at random"
OF_READINGS = ("entropy_figure", "readout_figure", "confidence_figure")


def lens_run(folder, *, others=(), mse=None, **kwargs):
    """A run by hand with these parameters of its lens.

    Args:
        others: names of plain lenses beside it.
        mse: parameters of a hidden_mse beside it.
    """
    train = copy.deepcopy(RECIPE["train"])
    terms = train["criterion"]["kwargs"]["sub_terms"]
    for name in others:
        terms[name] = copy.deepcopy(terms["lens"])
    if mse is not None:
        terms["mse"] = {"criterion": {"key": "distillens.hidden_mse", "kwargs": mse}}
    terms["lens"]["criterion"]["kwargs"] = {"layers": LAYERS, **kwargs}
    return run_by_hand(folder, train=train)


def test_captions_tell_of_the_readout_and_of_drawn_positions(tmp_path):
    run = read_run(lens_run(tmp_path / "run", readout="teacher", positions=0.25))
    caption = pairs_map(run).caption
    assert BY_MAP in caption
    assert QUARTER in caption
    for name in OF_READINGS:
        caption = getattr(run_figures, name)(run).caption
        # What is read beside training: every position, each model by its own head.
        assert OWN_HEADS in caption, name
        assert "25 %" not in caption


def test_the_page_has_these_captions(tmp_path):
    folder = lens_run(tmp_path / "run", readout="teacher", positions=0.25)
    page = html.unescape(write_run_report(folder).read_text(encoding="utf-8"))
    assert BY_MAP in page
    assert QUARTER in page
    assert page.count(OWN_HEADS) >= len(OF_READINGS)
    assert "Measured on 256 positions" in page


def test_captions_of_the_plain_lens_tell_of_neither(tmp_path):
    run = read_run(lens_run(tmp_path / "run", readout="own", positions=1.0))
    captions = [getattr(run_figures, name)(run).caption for name in OF_READINGS]
    for caption in (pairs_map(run).caption, *captions):
        for words in ("own head", "unembedding", "estimate"):
            assert words not in caption


def test_a_student_without_maps_is_not_said_to_have_one(tmp_path):
    own = lens_run(tmp_path / "own", readout="teacher", projection="none")
    without = {"mse": {"projection": "none"}, "projection_of": "mse"}
    shared = lens_run(tmp_path / "shared", readout="teacher", **without)
    for folder in (own, shared):
        caption = pairs_map(read_run(folder)).caption
        assert "Both layers are read through the teacher's unembedding." in caption
        assert "map" not in caption
    with_maps = lens_run(tmp_path / "maps", readout="teacher", mse={}, projection_of="mse")
    assert BY_MAP in pairs_map(read_run(with_maps)).caption


def test_a_weighed_lens_is_not_in_nats(tmp_path):
    entropy = {"min_teacher_entropy": 0.5, "weigh_by": "teacher_entropy"}
    found = pairs_map(read_run(lens_run(tmp_path / "run", **entropy)))
    assert "less than 0.5 nats of entropy count 0" in found.caption
    assert "multiplied by the entropy of the teacher's" in found.caption
    assert found.unit == ""
    plain = pairs_map(
        read_run(lens_run(tmp_path / "plain", min_teacher_entropy=0.5, positions=0.25))
    )
    assert plain.unit == "nats"
    # The share is drawn from what the entropy leaves.
    assert "estimate from 25 % of the others" in plain.caption


def test_of_several_terms_and_several_runs_each_is_told_of_its_own(tmp_path):
    folder = lens_run(tmp_path / "mapped", others=["plain"], readout="teacher")
    records = [training(step) | {"plain/1-1": 0.2} for step in (10, 20)]
    write_lines(folder / "metrics.jsonl", records)
    mapped, own = read_run(folder), read_run(lens_run(tmp_path / "own"))
    caption = pairs_map(mapped).caption
    assert "In lens, both layers are read through the teacher's unembedding, the s" in caption
    assert "In plain" not in caption
    assert f"although the lens of {mapped.name} was trained through the teacher's" in (
        run_figures.entropy_figure(own, mapped).caption
    )
    assert "lens of" not in run_figures.entropy_figure(mapped).caption


def test_layers_measured_before_the_maps_were_trained(tmp_path):
    term = {
        "measured": {"student": [1, 3], "teacher": [2, 3]},
        "mean": 0.12,
        "student_layers": [1, 3],
        "teacher_layers": [2, 3],
        "values": [[0.1, 0.4], [0.5, 0.14]],
        "divergence": "jsd",
        "num_positions": 512,
        "seconds": 1.4,
    }
    for readout, said in (("teacher", True), ("own", False)):
        folder = lens_run(tmp_path / readout, readout=readout)
        (folder / "layer_pairs.json").write_text(json.dumps({"terms": {"lens": term}}))
        (found,) = layer_maps(read_run(folder))
        assert ("Each model was read by its own head." in found.caption) is said
