"""`distillens report`: a page about a run, whatever state it is in, or about several."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from code_blocks import blocks_of
from run_by_hand import run_by_hand, write_lines
from shell import shell

from distillens_plugin.reports.run_report import write_report, write_run_report
from eval_harness.errors import DistillensError

HEADINGS = [
    "Numbers",
    "Losses",
    "Layer pairs",
    "What the lens reads",
    "Over- and under-confidence",
    "Layers and weights",
    "Schedule, speed and memory",
    "Answers through training",
]


class Headings(HTMLParser):
    """The page's second-level headings."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "h2"
        if self._inside:
            self.found.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.found[-1] += data


def headings(page: Path) -> list[str]:
    parser = Headings()
    parser.feed(page.read_text(encoding="utf-8"))
    return [heading.strip() for heading in parser.found]


def test_a_finished_run(tmp_path):
    folder = run_by_hand(tmp_path / "quick")
    page = write_run_report(folder)
    assert page == folder / "report" / "report.html"
    assert [h for h in headings(page) if h in HEADINGS] == HEADINGS
    text = page.read_text(encoding="utf-8")
    assert "A new llama learns from quickstart/teacher. 60 steps, seed 10." in text
    assert "#### 7, I think" in text
    names = {path.name for path in (folder / "report" / "figures").iterdir()}
    assert {"losses.png", "losses.svg", "pairs_0.png", "entropy.svg", "confidence.png"} <= names


def test_a_run_that_goes_on(tmp_path):
    folder = run_by_hand(tmp_path / "quick", num_steps=20, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    text = write_run_report(folder).read_text(encoding="utf-8")
    assert "20 of 60 steps so far" in text


def test_a_run_of_an_older_version_without_teacher_and_validation(tmp_path):
    folder = run_by_hand(tmp_path / "sft", models={"model": {"name_or_path": "gpt2"}})
    for name in ("lens.jsonl", "answers.jsonl"):
        (folder / name).unlink()
    write_lines(folder / "metrics.jsonl", [{"step": 10, "lr": 1e-3, "loss": 2.0, "ce": 2.0}])
    page = write_run_report(folder)
    found = headings(page)
    assert "Losses" in found
    assert not {"Layer pairs", "What the lens reads", "Answers through training"} & set(found)
    text = page.read_text(encoding="utf-8")
    assert "There is no lens.jsonl" in text
    assert "learns without a teacher" in text


def test_several_runs_side_by_side(tmp_path):
    runs = [
        run_by_hand(tmp_path / "a" / "train"),
        run_by_hand(tmp_path / "b" / "train", num_steps=40, seed=11),
    ]
    with pytest.raises(DistillensError, match=r"--output_dir: missing.*about 2 runs"):
        write_report(runs)
    page = write_report(runs, output_dir=tmp_path / "both")
    assert write_report(runs, output_dir=tmp_path / "both") == page
    text = page.read_text(encoding="utf-8")
    assert "Runs a and b" in text
    assert "Settings that differ" in text
    assert "Every other key of the recipes is the same" in text
    assert {"pairs_0.png", "pairs_1.png"} <= {p.name for p in (page.parent / "figures").iterdir()}
    assert not (runs[0] / "report").exists()


def test_what_a_run_chose(tmp_path):
    folder = run_by_hand(tmp_path / "chosen")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[1]["weight/lens"] = 2.5
    write_lines(folder / "metrics.jsonl", lines)
    term = {
        "measured": {"student": [1, 3], "teacher": [2, 3]},
        "mean": 0.12,
        "by_depth": {"student": [1, 3], "teacher": [1, 3], "mean": 0.2},
        "student_layers": [1, 2, 3],
        "teacher_layers": [1, 2, 3],
        "values": [[0.3, 0.1, 0.4], [0.5, 0.2, 0.3], [0.6, 0.5, 0.14]],
        "divergence": "jsd",
        "num_positions": 512,
        "seconds": 1.4,
    }
    (folder / "layer_pairs.json").write_text(json.dumps({"terms": {"lens": term}}))
    text = write_run_report(folder).read_text(encoding="utf-8")
    assert "layers 1-2, 3-3 were chosen for the least mean jsd, 0.12 nats" in text
    assert "Equal relative depth would have given 1-1, 3-3, with 0.2 nats." in text
    assert "2.5000" in text
    assert "weight: auto" in text
    term["values"].pop()
    (folder / "layer_pairs.json").write_text(json.dumps({"terms": {"lens": term}}))
    with pytest.raises(DistillensError, match=r"layer_pairs\.json: .*other sizes"):
        write_run_report(folder)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["nowhere"], {}, "nowhere: does not exist; expected the output folder of a run"),
        (["."], {}, "holds no metrics.jsonl"),
        (["quick", "quick"], {"output_dir": "out"}, "quick: named twice; name each run once"),
        (["quick"], {"output_dir": "file"}, "file is a file; name a folder"),
        (["quick"], {"output_dir": "file/in"}, "file is a file; name a folder"),
        (
            ["quick"],
            {"output_dir": "theirs"},
            "is no report of this project, and would be replaced",
        ),
        (["quick"], {"evaluations": "other"}, "other: holds no results_*.json"),
        (["broken"], {}, "broken/metrics.jsonl:2:2: not JSON"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, names, options, message):
    for name in ("quick", "other", "broken"):
        run_by_hand(tmp_path / name)
    (tmp_path / "file").write_text("")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "report.html").write_text("<!doctype html><title>Profits</title>")
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    lines[1] = "{'a'"
    (tmp_path / "broken" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    before = sorted(tmp_path.rglob("*"))
    given = {key: tmp_path / value for key, value in options.items()}
    if "evaluations" in given:
        given["evaluations"] = [given["evaluations"]]
    with pytest.raises(DistillensError) as caught:
        write_report([tmp_path / name for name in names], **given)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_prints_where_the_page_is_or_one_line(tmp_path):
    run_by_hand(tmp_path / "quick")
    done = distillens(["quick"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "quick/report/report.html\n"
    done = distillens(["quick", "nowhere", "--output_dir", "out"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("distillens report: nowhere: does not exist; expected the output folder")


def test_the_page_of_the_documentation(tmp_path, repo, monkeypatch):
    """docs/reports.md: what it types, typed; what it writes in Python, run."""
    blocks = [
        b
        for b in blocks_of(repo / "docs" / "reports.md")
        if b.run_by and __file__.endswith(b.run_by)
    ]
    assert [block.language for block in blocks] == ["bash", "python"]
    for name in ("quickstart", "no_lens"):
        run_by_hand(tmp_path / "runs" / name)
    printed = shell(blocks[0].text, tmp_path).stdout.splitlines()
    assert printed == ["runs/quickstart/report/report.html", "runs/compared/report.html"]
    monkeypatch.chdir(tmp_path)
    exec(blocks[1].text, {})
    assert (tmp_path / "entropy.png").read_bytes().startswith(b"\x89PNG")


def distillens(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distillens_plugin.cli", "report", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )
