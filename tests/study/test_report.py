"""What a study's report says of runs that are not alike, missing, or judged on their own rows."""

import json

from result_samples import make_results, make_samples, make_task
from tiny_study import METHODS, fake_run, tiny_study

from distillens_plugin.study.evaluation import evaluation_command, evaluation_folder
from distillens_plugin.study.load import load_study
from distillens_plugin.study.report import words
from distillens_plugin.study.report.page import _cost_grid, _score_grids
from distillens_plugin.study.report.results import COMPUTE, OWN_STEPS, STEPS, collect
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice
from eval_harness.results.folder import write_results

SFT = str(METHODS / "sft.yaml")
EPOCHS = {
    "models.student_model.tokenizer": "./teacher",
    "train.num_steps": None,
    "train.num_epochs": 2,
    "threads": 1,
}


def finals(study):
    return main_runs(study, {name: Choice() for name in study.methods})


def trained(study, *, seconds=None, steps=None, leave_out=()):
    for name, runs in finals(study).items():
        for run in runs:
            if (name, run.seed) not in leave_out:
                length = (steps or {}).get(name, 3)
                fake_run(
                    run.folder,
                    run.fingerprint,
                    losses={length: 4.0 + 0.01 * run.seed},
                    seconds=(seconds or {}).get(name, 10.0),
                )


def three(folder, **changes):
    methods = {
        "sft": {"label": "SFT", "fragments": [SFT]},
        "lens": {"label": "Lens"},
        "other": {"label": "Other lens", "set": {"lens_weight": 0.3}},
    }
    return load_study(tiny_study(folder, **{"methods": methods, "evaluation": None, **changes}))


def test_at_equal_compute_a_method_with_other_time_says_how_much(tmp_path):
    study = three(tmp_path, budget={"equal_compute": {"clock": "lens", "methods": ["sft"]}})
    trained(study, seconds={"lens": 20.0, "other": 30.0})
    steps = {"sft": {"key": "k", "clock": "lens", "num_steps": 6}}
    steps["sft"] |= {"clock_seconds_per_step": 1.0, "seconds_per_step": 0.5}
    kept = tmp_path / "out" / "equal_compute.json"
    kept.write_text(json.dumps(steps), encoding="utf-8")
    from distillens_plugin.study.compute import compute_runs_of

    for run in compute_runs_of(study, {"sft": {}}, {"sft": 6})["sft"]:
        fake_run(run.folder, run.fingerprint, losses={6: 3.5}, seconds=20.0)
    results = collect(study)
    assert results.time_shares == {"other": 1.5}
    labels = [row[0] for row in _score_grids(results, COMPUTE)[0].rows]
    assert labels == ["SFT", "Lens", "Other lens (1.50 of the time)"]
    assert [row[0] for row in _cost_grid(results, COMPUTE).rows] == labels
    assert "Other lens (1.50 of the time) (+" in words.sentences(results, COMPUTE)[0]
    assert "Other lens (+" in words.sentences(results, STEPS)[0]
    assert any("methods with a share of the time kept" in note for note in words.notes(results))
    # With another clock those runs are of another comparison.
    steps["sft"]["clock"] = "other"
    kept.write_text(json.dumps(steps), encoding="utf-8")
    results = collect(study)
    assert COMPUTE not in results.tables
    assert "compute/sft" in results.missing


def test_steps_are_equal_or_not_by_those_that_were_taken(tmp_path):
    # The same epochs of other rows, as SeqKD's, are other steps.
    study = three(tmp_path, set=EPOCHS)
    assert collect(study).held == STEPS
    trained(study, leave_out=[("other", 2)])
    assert collect(study).held == STEPS
    study = three(tmp_path / "b", set=EPOCHS)
    trained(study, steps={"sft": 2})
    assert collect(study).held == OWN_STEPS


def test_other_epochs_are_not_equal_steps_before_the_first_run(tmp_path):
    methods = {"sft": [SFT], "lens": {"set": {"train.num_epochs": 20}}}
    study = three(tmp_path, methods=methods, set=EPOCHS)
    assert collect(study).held == OWN_STEPS


def test_missing_evaluations_are_named_and_cells_count_their_seeds(tmp_path):
    evaluation = {
        "tasks": ["gsm8k"],
        "data": {"gsm8k": "./rows.jsonl"},
        "protocols": ["default", "greedy"],
    }
    study = three(tmp_path, evaluation=evaluation)
    trained(study, leave_out=[("lens", 2)])
    results = collect(study)
    assert "main/lens/seed_2" in results.missing
    for run in ("main/sft/seed_1", "main/lens/seed_1"):
        for protocol in ("default", "greedy"):
            assert f"{run}/evaluation/{protocol}" in results.missing
    cells = {row[0]: row[1] for row in _score_grids(results, STEPS)[0].rows}
    assert cells["Lens"].endswith("(1 of 2 seeds)")
    assert "seeds" not in cells["SFT"]


def test_benchmarks_of_rows_that_were_used_are_said_to_flatter(tmp_path):
    evaluation = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}}
    study = three(tmp_path, evaluation=evaluation)
    trained(study)
    assert not any("flatter" in note for note in collect(study).reference_notes)
    used = finals(study)["lens"][0].recipe.datasets
    for key, how in (("validation", "settings were chosen"), ("train", "were trained on")):
        rows = (tmp_path / "rows.jsonl").read_bytes()
        assert rows
        with open(getattr(used, key).path, "rb") as file:
            (tmp_path / "rows.jsonl").write_bytes(file.read())
        notes = [note for note in collect(study).reference_notes if "flatter" in note]
        assert len(notes) == 1
        assert notes[0].startswith("gsm8k: its rows are those ")
        assert how in notes[0]


def test_what_metrics_cannot_see_of_references_is_said_once(tmp_path):
    evaluation = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}, "protocols": ["default"]}
    study = three(tmp_path, evaluation=evaluation)
    trained(study)
    samples = make_samples([["x", "y"], ["b", "b"], ["z", "z"]], references=[["<"], ["b"], []])
    for runs in finals(study).values():
        for run in runs:
            results = make_results(run.method, make_task("gsm8k", samples))
            write_results(results, evaluation_folder(run, "default"))
            evaluation_command(run, "default").after(1.0)
    some, words_note, blank = collect(study).reference_notes
    assert some == "gsm8k: 2 of 3 rows have a reference; the scores are over these."
    assert words_note.startswith("gsm8k: rougeL: 1 of 2 rows have no reference with a word")
    assert blank.startswith("gsm8k: exact_match: 1 of 2 rows have a reference of punctuation alone")
    assert blank in words.notes(collect(study))


def test_a_report_of_others_is_not_replaced(tmp_path, capsys):
    from distillens_plugin import cli

    study = three(tmp_path)
    trained(study)
    text = tmp_path / "out" / "report.md"
    text.write_text("# My notes\n", encoding="utf-8")
    for flags in (["--report_only"], []):
        assert cli.main(["study", study.path, *flags]) == 2
        assert f"{text} is no report of this project" in capsys.readouterr().err
    assert text.read_text(encoding="utf-8") == "# My notes\n"
    text.unlink()
    assert cli.main(["study", study.path, "--report_only"]) == 0
    # That of an earlier version, without the mark.
    mark, _, rest = text.read_text(encoding="utf-8").partition("\n\n")
    assert mark.startswith("<!--")
    text.write_text(rest, encoding="utf-8")
    assert cli.main(["study", study.path, "--report_only"]) == 0


def test_a_table_of_others_is_not_replaced(tmp_path, capsys):
    from distillens_plugin import cli

    study = three(tmp_path)
    trained(study)
    table = tmp_path / "out" / "table.csv"
    for content in ("method,mine\n", "", "budget,method\n2026,car\n"):
        table.write_text(content, encoding="utf-8")
        for flags in (["--report_only"], []):
            assert cli.main(["study", study.path, *flags]) == 2
            assert f"{table} is no report of this project" in capsys.readouterr().err
        assert table.read_text(encoding="utf-8") == content
        assert not table.with_name("report.md").exists()
    table.unlink()
    for _ in range(2):  # its own is replaced
        assert cli.main(["study", study.path, "--report_only"]) == 0
    assert table.read_text(encoding="utf-8").startswith("budget,method,label,task,")
