"""What a lens map's folder holds, and what its page says of the numbers."""

import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from lens_map_sample import lens_map_sample

from distillens_plugin.reports import lens_page
from distillens_plugin.reports.lens_folder import check_free
from distillens_plugin.reports.lens_page import write_lens_page
from distillens_plugin.reports.lens_words import matrix_sentence, model_sentences, printed
from eval_harness.errors import DistillensError, RunFailure

DRAWN = (
    "layers_student",
    "layers_teacher",
    "matrix_final",
    "matrix_identity",
    "tokens_student_final_1",
    "tokens_teacher_final_1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_lens_page(lens_map_sample(), tmp_path_factory.mktemp("maps") / "map").parent


def test_the_folder_holds_a_page_all_numbers_and_each_figure_twice(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "lens.html", "lens.json"]
    files = sorted(path.name for path in (folder / "figures").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg"))


def test_the_numbers_are_strict_json_with_units_and_versions(folder):
    numbers = json.loads((folder / "lens.json").read_text(encoding="utf-8"))
    assert numbers["format"] == "distillens.lens/1"
    assert numbers["matrices"]["final"]["values"][1] == [0.4, 0.2, 0.1, 0.3]
    assert numbers["models"][1]["statistics"]["identity"]["entropy"][0] == 8
    assert numbers["models"][0]["examples"]["final"][0]["top_tokens"][0][0][0] == " a"
    assert numbers["pairs"]["final"][1] == {
        "name": "least divergent",
        "pairs": [[1, 2]],
        "mean": 0.1,
    }
    assert numbers["gradients"][0]["unembedding"] is None
    assert numbers["units"]["entropy"] == "nats"
    assert {"distillens", "torch"} <= numbers["versions"].keys()


def test_the_page_marks_the_recipes_pairs_and_the_least_divergent(folder):
    page = (folder / "lens.html").read_text(encoding="utf-8")
    assert page.count("student layer 1, teacher layer 1: 0.200 nats (marked)") == 2
    assert page.count("student layer 1, teacher layer 2: 0.100 nats (least divergent)") == 2
    assert page.count("0.100★") == 2
    assert "A ring: the recipe&#39;s pairs, a star: least divergent pairs." in page
    assert ">none<" in page


def test_sentences_say_what_the_numbers_do():
    found = lens_map_sample()
    without, through = model_sentences(found.models[0])
    assert without == (
        "Without the final norm: the entropy is highest at layer 0 (8.00 nats) and first falls "
        "below half of that at layer 2; the true next token has median rank 500 at layer 0 and 1 "
        "at layer 2; it is the most probable one most often at layer 2, at 50 % of positions."
    )
    assert through.startswith("Through the final norm: ")
    assert matrix_sentence(found, "final") == (
        "Of all pairs, 0-0 differs least (0.000 nats). The recipe's pairs: 1-1 (0.200); mean 0.200 "
        "nats. Least divergent pairs: 1-2 (0.100); mean 0.100 nats."
    )


def test_numbers_that_overflow_are_said_and_are_null(tmp_path):
    found = lens_map_sample()
    broken = replace(found.models[0].statistics["final"], entropy=np.array([8.0, np.nan, 1.0]))
    models = [replace(found.models[0], statistics={"final": broken}), found.models[1]]
    folder = write_lens_page(replace(found, models=models), tmp_path / "map").parent
    assert "not a finite number" in (folder / "lens.html").read_text(encoding="utf-8")
    numbers = json.loads((folder / "lens.json").read_text(encoding="utf-8"))
    assert numbers["models"][0]["statistics"]["final"]["entropy"] == [8, None, 1]


def test_an_infinite_ratio_is_null_too(tmp_path):
    found = lens_map_sample()
    endless = [replace(each, others=(float("inf"), 0.0)) for each in found.gradients]
    folder = write_lens_page(replace(found, gradients=endless), tmp_path / "map").parent
    numbers = json.loads((folder / "lens.json").read_text(encoding="utf-8"))
    assert numbers["gradients"][0]["others"] == [None, 0.0]


def test_an_older_map_stays_whole_if_the_new_one_cannot_be_made(folder, tmp_path, monkeypatch):
    older = shutil.copytree(folder, tmp_path / "map")
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    monkeypatch.setattr(lens_page, "render", Mock(side_effect=RunFailure("no page")))
    with pytest.raises(RunFailure, match="no page"):
        write_lens_page(lens_map_sample(["other"]), older)
    assert {path: path.read_bytes() for path in older.rglob("*") if path.is_file()} == before


def test_only_an_older_map_is_replaced(folder, tmp_path):
    older, folder = folder, tmp_path / "map"
    check_free(folder, overwrite=False)
    assert not folder.exists()
    shutil.copytree(older, folder)
    with pytest.raises(DistillensError, match="holds a lens map; replace it with --overwrite"):
        check_free(folder, overwrite=False)
    check_free(folder, overwrite=True)
    found = lens_map_sample()
    smaller = replace(found, models=found.models[:1], matrices={}, pairs={}, gradients=[])
    write_lens_page(smaller, folder)
    assert not list((folder / "figures").glob("matrix_*"))
    (folder / "figures" / "mine.png").write_bytes(b"")
    with pytest.raises(DistillensError, match="holds figures, which is no part of a lens map"):
        check_free(folder, overwrite=True)


def test_a_matrix_without_pairs_is_printed_with_the_reason():
    lines = printed(replace(lens_map_sample(), pairs={"final": []}, gradients=[]))
    at = lines.index("JSD between layers through the final norm, nats")
    assert lines[at + 1].startswith("  no pair: no layer lies between")
