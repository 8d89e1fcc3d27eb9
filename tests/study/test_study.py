"""`distillens study` as a real process: killed, resumed, reported, skipped, refused."""

import csv
import json
import re
import signal
import subprocess
import time

import pytest
import yaml
from page_checks import check_page
from tiny_study import ENVIRONMENT, METHODS, REPO, fake_run, run_study, study_command, tiny_study

from distillens_plugin.study.compute import equal_compute_steps
from distillens_plugin.study.load import load_study
from distillens_plugin.study.runner import main_runs
from distillens_plugin.study.search import Choice

BROKEN = {"set": {"models.teacher_model.name_or_path": "./nowhere"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study whose first call was killed while its second run went on, and whose second call came
    to the end; one method cannot run.

    Returns:
        The study file, what the second call printed, and when the first run's summary was written.
    """
    folder = tmp_path_factory.mktemp("study")
    path = tiny_study(
        folder,
        methods={
            "sft": {"label": "SFT", "fragments": [str(METHODS / "sft.yaml")]},
            "lens": {"label": "DistillLens", "set": {"lens_weight": 0.5}},
            "broken": BROKEN,
        },
        budget={"equal_compute": {"clock": "lens", "methods": ["sft"]}},
        paper={"source": "a paper", "scores": {"sft": 12.5, "lens": 34.25}, "teacher": 40.0},
    )
    evaluation = yaml.safe_load(path.read_text(encoding="utf-8"))
    evaluation["evaluation"] |= {"protocols": ["default"], "rouge_tokenizer": "unicode"}
    path.write_text(yaml.safe_dump(evaluation, sort_keys=False), encoding="utf-8")
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"id": "zh", "instruction": "首都?", "output": "北京"}) + "\n")
    first = folder / "out" / "main" / "sft" / "seed_1" / "evaluation" / "default" / "done.json"
    second = folder / "out" / "main" / "sft" / "seed_2" / "train" / "metrics.jsonl"
    with subprocess.Popen(
        study_command(path, "--jobs", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        cwd=REPO,
    ) as study:
        deadline = time.monotonic() + 300
        while not (first.exists() and second.exists()):
            assert study.poll() is None, study.stdout
            assert time.monotonic() < deadline
            time.sleep(0.02)
        study.send_signal(signal.SIGKILL)
    written = first.stat().st_mtime_ns
    done = run_study(path, "--jobs", "2")
    return path, done, (first, written)


def test_a_killed_study_goes_on_and_keeps_what_was_done(finished):
    path, done, (first, written) = finished
    assert "final runs: 6 runs, 1 of them done already" in done.stdout, done.stdout
    assert first.stat().st_mtime_ns == written
    for method in ("sft", "lens"):
        for seed in (1, 2):
            run = path.parent / "out" / "main" / method / f"seed_{seed}"
            assert (run / "train" / "summary.json").exists()
            assert (run / "evaluation" / "default" / "done.json").exists()


def test_a_failed_run_is_named_the_others_go_on_and_the_exit_code_is_1(finished):
    _, done, _ = finished
    assert done.returncode == 1
    lines = [line for line in done.stdout.split("\n") if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in lines] == ["main/broken/seed_1", "main/broken/seed_2"]
    assert "nowhere" in lines[0]
    assert "log.txt" in lines[0]


def test_the_report_is_one_page_one_markdown_one_csv_and_its_figures(finished):
    path, _, _ = finished
    out = path.parent / "out"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == len(list((out / "figures").glob("*.png"))) > 0
    assert not re.search(r'(?:src|href)="(?!#)', page)
    markdown = (out / "report.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    for text in (page, markdown):
        for part in ("against SFT at equal steps", "against SFT at equal compute", "34.25"):
            assert part in text
        assert "Missing so far: main/broken/seed" in text
        assert "gsm8k: rougeL: 1 of 7 rows have no reference with a word" in text
        assert "gsm8k ROUGE-L of Unicode words (default), against SFT at equal steps" in text


def test_the_page_is_safe_and_usable_in_a_browser(finished):
    path, _, _ = finished
    check_page(path.parent / "out" / "report.html")


def test_the_csv_holds_the_evaluations_own_numbers(finished):
    path, _, _ = finished
    out = path.parent / "out"
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["budget"] for row in rows} == {"equal steps", "equal compute"}
    for method in ("sft", "lens"):
        found: dict[str, list[float]] = {"rougeL": [], "rougeL_unicode": [], "nll": []}
        for seed in (1, 2):
            folder = out / "main" / method / f"seed_{seed}" / "evaluation" / "default"
            (file,) = folder.glob("*/results_*.json")
            metrics = json.loads(file.read_text(encoding="utf-8"))["results"]["gsm8k"]
            for name, values in found.items():
                values.append(metrics[f"{name},none"])
        for name, values in found.items():
            row = next(
                row
                for row in rows
                if (row["budget"], row["method"], row["task"], row["metric"])
                == ("equal steps", method, "gsm8k", name)
            )
            assert float(row["mean"]) == pytest.approx(sum(values) / 2, abs=1e-4)
            assert row["num_seeds"] == "2"
            assert row["num_rows"] == "7"
    compared = [row for row in rows if row["reference"]]
    assert {(row["method"], row["reference"]) for row in compared} == {("lens", "sft")}


def test_equal_compute_trains_longer_within_the_clocks_time(finished):
    path, _, _ = finished
    out = path.parent / "out"
    kept = json.loads((out / "equal_compute.json").read_text(encoding="utf-8"))["sft"]
    pace = kept["clock_seconds_per_step"] / kept["seconds_per_step"]
    assert kept["num_steps"] == max(1, int(3 * pace))
    summary = out / "compute" / "sft" / "seed_1" / "train" / "summary.json"
    assert json.loads(summary.read_text(encoding="utf-8"))["num_steps"] == kept["num_steps"]


def test_the_report_alone_is_remade_without_training(finished):
    path, _, _ = finished
    report = path.parent / "out" / "report.md"
    before = report.read_bytes()
    report.unlink()
    done = run_study(path, "--report_only", timeout=120)
    assert done.returncode == 0, done.stderr
    assert report.read_bytes() == before


def test_a_changed_recipe_is_refused_and_names_key_and_flag(finished):
    path, _, _ = finished
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["methods"]["lens"]["set"]["lens_weight"] = 0.7
    changed = path.parent / "changed.yaml"
    changed.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    done = run_study(changed)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for part in ("main/lens/seed_1", "lens.weight was 0.5 and is 0.7", "--overwrite"):
        assert part in done.stderr, done.stderr
    summary = path.parent / "out" / "main" / "lens" / "seed_1" / "train" / "summary.json"
    assert summary.exists()


def test_dry_run_lists_what_is_done_and_estimates_from_it(finished):
    path, _, _ = finished
    done = run_study(path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "  main/sft/seed_1  done" in done.stdout
    assert re.search(r"  main/broken/seed_1$", done.stdout, re.MULTILINE)
    assert re.search(r"lens: \d+ s \(mean of 2 finished runs\)", done.stdout)
    reason = re.search(r"broken: unknown because its trial step failed: (.*)", done.stdout)
    assert reason is not None
    assert "nowhere" in reason[1]


def test_dry_run_times_a_real_step_of_a_method_without_a_run(tmp_path):
    path = tiny_study(tmp_path)
    done = run_study(path, "--dry-run")
    assert done.returncode == 0, done.stderr
    for name in ("sft", "lens"):
        pattern = rf"  {name}: at most about [\d.]+ \w+ \(from one real step, the first\)"
        assert re.search(pattern, done.stdout), done.stdout
    assert not (tmp_path / "out").exists()


def test_the_clocks_pace_is_the_median_and_is_kept(tmp_path):
    path = tiny_study(tmp_path, budget={"equal_compute": {"clock": "lens"}}, seeds=[1, 2, 3])
    study = load_study(path)
    main = main_runs(study, {name: Choice() for name in study.methods})
    for run, seconds in zip([*main["sft"], *main["lens"]], (10, 10, 90, 30, 35, 300), strict=True):
        fake_run(run.folder, run.fingerprint, losses={100: 4.0}, seconds=seconds)
    assert equal_compute_steps(study, main) == {"sft": 350}
    run = main["sft"][0]
    (run.folder / "run.json").unlink()
    (run.folder / "train" / "summary.json").unlink()
    assert equal_compute_steps(study, main) == {"sft": 350}


def test_a_report_without_any_run_is_refused(tmp_path):
    done = run_study(tiny_study(tmp_path), "--report_only")
    assert done.returncode == 2
    assert "found no finished run of" in done.stderr


@pytest.mark.parametrize(("longer", "held"), [(4, "steps of their own"), (3, "equal steps")])
def test_a_report_says_equal_steps_only_of_equal_steps(tmp_path, longer, held):
    methods = {
        "sft": {"label": "SFT", "fragments": [str(METHODS / "sft.yaml")], "set": {"steps": longer}},
        "lens": {"set": {"steps": 3}},
    }
    path = tiny_study(tmp_path, evaluation=None, methods=methods)
    study = load_study(path)
    for name, runs in main_runs(study, {name: Choice() for name in study.methods}).items():
        for run in runs:
            steps = longer if name == "sft" else 3
            fake_run(run.folder, run.fingerprint, losses={steps: 4.0 + 0.1 * run.seed})
    done = run_study(path, "--report_only", timeout=120)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"## {held.capitalize()}\n" in text
    assert f"against SFT at {held}: " in text
    other = {"equal steps", "steps of their own"} - {held}
    assert other.pop() not in text.lower()
