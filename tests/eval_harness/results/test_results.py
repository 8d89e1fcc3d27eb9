"""Results on disk: lm-eval's layout, strict JSON, whole files, and errors that name the place."""

import json
import os
from dataclasses import replace

import pytest
from result_samples import NASTY, make_results, make_samples, make_task

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.results.folder import load_results, model_folder_name, write_results
from eval_harness.results.schema import NOT_AVAILABLE
from eval_harness.shared.files.atomic import check_writable


@pytest.fixture
def results():
    samples = make_samples(
        [["the answer", NASTY], ["", "the answer to number 1"]],
        references=[["the answer to number 0"], ["one", NASTY]],
    )
    return make_results("org/model", make_task("self_inst", samples))


def strict(text: str | bytes):
    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_layout_and_keys_are_those_of_lm_eval(results, tmp_path):
    path = write_results(results, tmp_path)
    assert path == tmp_path / "org__model" / "results_2023-11-14T22-13-20.250000.json"
    content = strict(path.read_text())
    assert {"results", "configs", "versions", "n-samples", "config", "date"} <= set(content)
    metrics = content["results"]["self_inst"]
    for name in ("rougeL", "exact_match"):
        assert {f"{name},none", f"{name}_stderr,none"} <= set(metrics)
    assert metrics["alias"] == "self_inst"
    assert content["n-samples"]["self_inst"] == {"original": 2, "effective": 2}
    lines = (path.parent / "samples_self_inst_2023-11-14T22-13-20.250000.jsonl").read_bytes()
    rows = [strict(line) for line in lines.rstrip(b"\n").split(b"\n")]
    assert len(rows) == 2
    keys = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "rougeL"}
    assert keys <= set(rows[0])
    assert rows[0]["resps"] == [["the answer", NASTY]]
    assert rows[0]["target"] == "the answer to number 0"
    assert rows[1]["target"] == "one"
    assert rows[1]["targets"] == ["one", NASTY]
    assert rows[0]["rougeL"] == pytest.approx(sum(rows[0]["scores"]["rougeL"]) / 2)


def test_what_is_written_is_read_back_unchanged(results, tmp_path):
    path = write_results(results, tmp_path)
    for place in (path, path.parent, tmp_path):
        loaded = load_results(place)
        task = loaded.tasks["self_inst"]
        assert task.source == str(path)
        task.source = ""
        assert loaded == results
    assert load_results(path, samples=False).tasks["self_inst"].samples == []


def as_first_form(path):
    """Rewrites what `write_results` wrote as versions before RESULTS_FORMAT 2 wrote it."""
    content = strict(path.read_text())
    del content["results_format"]
    for task, values in content.pop("details").items():
        content["results"][task] |= values
        del content["results"][task]["name"], content["results"][task]["sample_len"]
    path.write_text(json.dumps(content))
    for file in path.parent.glob("samples_*"):
        rows = [strict(line) for line in file.read_bytes().rstrip(b"\n").split(b"\n")]
        for row in rows:
            targets = row.pop("targets")
            row["target"] = targets if len(targets) > 1 else targets[0]
            row["resps"] = [[text] for text in row["resps"][0]]
            row["scores"] = {
                name: [score / 100 for score in scores] for name, scores in row["scores"].items()
            }
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_results_of_earlier_versions_are_read_in_the_unit_of_today(results, tmp_path):
    path = write_results(results, tmp_path)
    as_first_form(path)
    task = load_results(path).tasks["self_inst"]
    task.source = ""
    expected = results.tasks["self_inst"]
    for old, new in zip(task.samples, expected.samples, strict=True):
        for metric, scores in old.scores.items():
            assert scores == pytest.approx(new.scores[metric])
        old.scores = new.scores
    assert task == expected
    # Fractions only: a score above 1 is no score of that form.
    rows = next(path.parent.glob("samples_*"))
    row = strict(rows.read_text().split("\n")[0])
    row["scores"]["rougeL"] = [0.5, 2]
    rows.write_text(json.dumps(row) + "\n")
    with pytest.raises(DistillensError, match=r"scores\.rougeL\.1 = 2: it should be less than"):
        load_results(path)


def test_no_temporary_file_is_left_and_files_are_as_readable_as_others(results, tmp_path):
    path = write_results(results, tmp_path)
    assert len(list(path.parent.iterdir())) == 2
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_nan_is_never_written(results, tmp_path):
    results.tasks["self_inst"].metrics["rougeL,none"] = float("nan")
    with pytest.raises(RunFailure, match="JSON has no NaN"):
        write_results(results, tmp_path)
    results.tasks["self_inst"].samples[0].extra["nll"] = float("inf")
    with pytest.raises(RunFailure, match=r"samples_self_inst.*JSON has no NaN"):
        write_results(results, tmp_path)
    assert not list(tmp_path.glob("*/results_*"))


def test_one_row_has_no_standard_error_but_valid_json(tmp_path):
    samples = make_samples([["a", "b"]])
    path = write_results(make_results("m", make_task("t", samples)), tmp_path)
    content = strict(path.read_text())
    assert content["details"]["t"]["rougeL_stderr,none"] == NOT_AVAILABLE
    assert load_results(path).tasks["t"].metrics["rougeL_ci_low,none"] == NOT_AVAILABLE
    # lm-eval's tools take everything but the names for a number.
    del content["results"]["t"]["name"], content["results"]["t"]["alias"]
    assert all(isinstance(value, int | float) for value in content["results"]["t"].values())


def test_rows_that_all_score_the_same_claim_no_interval():
    metrics = make_task("t", make_samples([["x", "y"], ["z", "x"]])).metrics
    assert metrics["exact_match,none"] == 0.0
    assert metrics["exact_match_ci_low,none"] == NOT_AVAILABLE
    assert metrics["exact_match_stderr,none"] == 0.0
    assert metrics["exact_match_per_seed,none"] == [0.0, 0.0]


def test_lists_need_one_entry_for_each_seed(results, tmp_path):
    results.tasks["self_inst"].samples[1].num_tokens = [1]
    with pytest.raises(DistillensError, match=r"'row-1' has 1 entries in num_tokens.* 2 seeds"):
        write_results(results, tmp_path)


def test_each_task_comes_from_its_newest_file(tmp_path):
    old, new = make_samples([["old", "old"]]), make_samples([["new", "new"]])
    write_results(make_results("m", make_task("a", old), make_task("b", old), date=1.0), tmp_path)
    write_results(make_results("m", make_task("a", new), date=2.0), tmp_path)
    tasks = load_results(tmp_path / "m").tasks
    assert tasks["a"].samples[0].resps == ["new", "new"]
    assert tasks["b"].samples[0].resps == ["old", "old"]


def test_several_models_below_a_path_are_refused_by_name(tmp_path):
    for name in ("m1", "m2"):
        write_results(make_results(name, make_task("a", make_samples([["x", "y"]]))), tmp_path)
    with pytest.raises(DistillensError, match=r"several models \(m1, m2\); name one"):
        load_results(tmp_path)


def test_what_is_not_a_result_is_refused_with_its_place(tmp_path):
    with pytest.raises(DistillensError, match="no such file or folder"):
        load_results(tmp_path / "missing")
    with pytest.raises(DistillensError, match=r"no results_\*\.json"):
        load_results(tmp_path)
    file = tmp_path / "results_x.json"
    for content, message in [
        ("[]", "found no JSON object; expected a results file"),
        ('{\n"a": 1', r"results_x\.json:2:7: not JSON: .*; expected a results file"),
        ('{"results": NaN}', r":1:13: not JSON: NaN is not"),
        ('{"results": {"arc": {"rougeL,none": 1e999}}}', r":1:37: 1e999 is too large"),
        ('{"results": {"arc": {}}}', r"results_x\.json: no key configs; expected a results"),
        ('{"results": {"arc": []}}', r"results_x\.json: results\.arc = \[\]: it should be"),
    ]:
        file.write_text(content)
        with pytest.raises(DistillensError, match=message):
            load_results(file)


def test_broken_samples_row_is_named_by_file_and_line(results, tmp_path):
    path = write_results(results, tmp_path)
    rows = next(path.parent.glob("samples_*"))
    lines = rows.read_text().split("\n")
    row = json.loads(lines[1])
    for key, value, message in [
        ("seeds", [1, 2, 3], "2 entries in resps, expected one for each of the 3 seeds"),
        ("seeds", [], "seeds = .* at least 1"),
        ("seeds", ["1", "2"], "seeds.0 = '1': it should be a valid integer"),
        ("target", [], "target = .* at least 1"),
        ("target", [[]], "target.0 = "),
        ("resps", ["a", "b"], "resps.0 = 'a': it should be a valid list"),
        ("doc", {"id": {}}, "doc.id must be a string, an integer or null"),
        ("scores", {"rougeL": [50, 101]}, "scores.rougeL.1 = 101: it should be less than"),
        ("extra", {"reference_nll": [None]}, "extra.reference_nll.0 = None"),
    ]:
        rows.write_text(f"{lines[0]}\n{json.dumps({**row, key: value})}\n")
        with pytest.raises(DistillensError, match=rf"samples_self_inst.*:2: .*{message}"):
            load_results(path)
    del row["resps"]
    rows.write_text(f"{lines[0]}\n{json.dumps(row)}\n")
    with pytest.raises(DistillensError, match=r":2: no key resps; expected a row of a samples"):
        load_results(path)


def test_fingerprint_covers_every_part(results):
    fingerprint = results.tasks["self_inst"].fingerprint
    first = fingerprint.digest()
    assert len(first) == 16
    for part, value in [("protocol", {}), ("data", "e"), ("model", {}), ("versions", {})]:
        changed = {**fingerprint.__dict__, part: value}
        assert type(fingerprint)(**changed).digest() != first


def test_unwritable_folder_is_refused_before_work(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(DistillensError, match="cannot be written"):
        check_writable(blocker)
    with pytest.raises(DistillensError, match="cannot be written"):
        check_writable(blocker / "below")
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_model_names_become_folder_names_by_lm_evals_rule_where_that_is_clear():
    assert model_folder_name("org/model") == "org__model"
    assert model_folder_name("/models/a_b-1.5/best") == "__models__a_b-1.5__best"
    assert model_folder_name("a:b|c?[d]").startswith("a__b__c__d__-")


def test_every_model_has_a_folder_of_its_own_below_the_output_path(tmp_path):
    names = ["m/x", "m__x", "m:x", "m//x", "m___x", "m/_x", "m_/x", "m__/x", "..", ".", "", "..."]
    names += ["a/..", "x\ny", "x" * 300, "x" * 301, "é" * 150, "n\0l", "../..", "m__x-1b5a1c2d"]
    folders = [model_folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        (tmp_path / folder).mkdir()
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


def test_results_of_a_model_that_was_trained_again_in_between_are_refused(tmp_path):
    """Its name, and so its folder, stays the same."""
    rows = make_samples([["x", "y"]])
    old, new = make_task("b", rows), make_task("a", rows)
    new.fingerprint.model["weights"] = "retrained"
    write_results(make_results("m", make_task("a", rows), old, date=1.0), tmp_path)
    path = write_results(make_results("m", new, date=2.0), tmp_path)
    message = r"results_1970-.*: b and a of .* were answered by different .*weights is not set and"
    with pytest.raises(DistillensError, match=message):
        load_results(tmp_path / "m")
    assert list(load_results(path).tasks) == ["a"]
    write_results(make_results("m", new, replace(new, task="b"), date=3.0), tmp_path)
    assert set(load_results(tmp_path / "m").tasks) == {"a", "b"}


def test_samples_that_are_not_whole_are_refused(results, tmp_path):
    path = write_results(results, tmp_path)
    rows = next(path.parent.glob("samples_*"))
    first, *others = rows.read_text().split("\n")
    rows.write_text(f"{first}\n")
    with pytest.raises(
        DistillensError, match=r"samples_self_inst.*: found 1 rows, expected the \d"
    ):
        load_results(path)
    rows.write_text("\n".join([first, first, *others[1:]]))
    with pytest.raises(DistillensError, match=r"rows 1 and 2 have the same id 'row-0'"):
        load_results(path)


def test_a_null_id_is_the_rows_index():
    sample = make_samples([["a", "b"]])[0]
    sample.doc = {"id": None}
    assert sample.row_id == "0"
