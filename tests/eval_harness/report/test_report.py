"""The report: one page that needs nothing else, with every text shown as text."""

import base64
import hashlib
import html
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from result_samples import NASTY, make_results, make_samples, make_task

from eval_harness.comparison.systems import load_systems
from eval_harness.errors import DistillensError
from eval_harness.report.page import write_report
from eval_harness.report.rows import printable, prompt_text, rows_that_differ
from eval_harness.results.folder import write_results

pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")

REFERENCES = [[f"the answer to number {index}"] for index in range(6)]
PNG = b"\x89PNG\r\n\x1a\n"


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval_harness", "report", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Two systems on two tasks: one answers row 4 with nasty text, the other is right."""
    right = [[target[0], target[0]] for target in REFERENCES]
    wrong = [[target[0], "no"] for target in REFERENCES]
    wrong[4] = [NASTY, NASTY]
    wrong[5] = ["", ""]
    return [
        str(write_results(make_results(name, *tasks), tmp_path / "runs").parent)
        for name, tasks in {
            "good <i>$x$": [
                make_task(task, make_samples(right, references=REFERENCES)) for task in "ab"
            ],
            "bad|`one`": [
                make_task(task, make_samples(wrong, references=REFERENCES)) for task in "ab"
            ],
        }.items()
    ]


class Tags(HTMLParser):
    """Collects the tags of a page, and what they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(folders, tmp_path):
    done = run_report(*folders, "--output_path", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "out" / "report.html"
    assert done.stdout == f"{page}\n{tmp_path / 'out' / 'report.md'}\n"
    tags = Tags(page.read_text(encoding="utf-8"))
    assert tags.open == []
    assert not {"link", "iframe", "i", "img"} & set(tags.tags)
    # Two figures for each of two tasks, and the page's own script, which it allows by its hash.
    assert tags.tags.count("svg") == 4
    assert tags.tags.count("script") == 1
    assert tags.sources == ["#main"]
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
    assert f"{allowed} 'sha256-{digest}'" in text
    plots = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert plots == ["a_length.png", "a_scores.png", "b_length.png", "b_scores.png"]
    for name in plots:
        assert (tmp_path / "out" / "plots" / name).read_bytes().startswith(PNG)


def test_every_text_is_shown_as_text(folders, tmp_path):
    page, _ = write_report(load_systems(folders), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1  # the page's own
    assert "good &lt;i&gt;$x$" in text
    shown = html.unescape(text)
    assert "nul \\x00 lone \ufffd line\u2028sep\\x85 crlf\n 😀 <script>alert(1)</script>" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)


def test_differences_are_told_with_their_verdict(folders, tmp_path):
    page, _ = write_report(load_systems(folders), tmp_path / "out")
    text = html.unescape(page.read_text(encoding="utf-8"))
    # Six differing rows: the smallest p is 2 / 64, times two tasks by Holm.
    assert "0.0312" in text
    assert "0.0625" in text
    assert "a, rougeL: no difference shown between good <i>$x$ and bad|`one`" in text
    assert "sampling noise" in text


def test_rows_that_differ_most_come_first(folders):
    systems = load_systems(folders)
    rows = rows_that_differ(systems, "a", metric="rougeL", num_rows=3)
    assert [row.row_id for row in rows[:2]] == ["row-4", "row-5"]
    assert [answer.mean for answer in rows[0].answers] == [100.0, 0.0]
    assert rows[0].spread == 100.0
    assert rows[2].spread == pytest.approx(50.0)
    assert len(rows) == 3


def test_equal_systems_show_no_rows(folders, tmp_path):
    systems = load_systems([folders[0]])
    other = load_systems([folders[0]])
    assert rows_that_differ([systems[0], other[0]], "a", metric="rougeL", num_rows=9) == []
    assert len(rows_that_differ(systems, "a", metric="rougeL", num_rows=9)) == 6


def test_one_system_and_one_row_make_a_report_without_differences(tmp_path):
    task = make_task("a", make_samples([["x", "y"]]))
    path = write_results(make_results("m", task), tmp_path / "runs")
    page, markdown = write_report(load_systems([path]), tmp_path / "out")
    assert "Differences" not in page.read_text(encoding="utf-8")
    assert "Lowest rows" in page.read_text(encoding="utf-8")
    assert "| m | 0.00 |" in markdown.read_text(encoding="utf-8")


def test_perplexity_of_a_run_is_in_the_table(tmp_path):
    task = make_task("a", make_samples([["x", "y"], ["z", "z"]]))
    task.metrics |= {"nll,none": 1.25, "nll_stderr,none": 0.1, "perplexity,none": 3.4903}
    path = write_results(make_results("m", task), tmp_path / "runs")
    _, markdown = write_report(load_systems([path]), tmp_path / "out")
    text = markdown.read_text(encoding="utf-8")
    assert "| perplexity |" in text
    assert "| 1.250 | 3.49 |" in text


def test_markdown_table_keeps_its_columns_and_shows_its_plots(folders, tmp_path):
    _, markdown = write_report(load_systems(folders), tmp_path / "out")
    text = markdown.read_text(encoding="utf-8")
    assert "bad\\|\\`one\\`" in text
    assert "good \\<i\\>\\$x\\$" in text
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    plots = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(plots) == 4
    for plot in plots:
        assert (markdown.parent / plot).read_bytes().startswith(PNG)


def test_the_same_systems_give_the_same_bytes(folders, tmp_path):
    pages = [write_report(load_systems(folders), tmp_path / name)[0] for name in ("1", "2")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_without_matplotlib_the_install_line_is_given(folders, tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from eval_harness.cli import main\n"
        f"raise SystemExit(main(['report', '--output_path', {str(tmp_path / 'o')!r}, 'gone']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr
    assert not (tmp_path / "o").exists()


def test_mistakes_exit_with_2_before_any_work(folders, tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    for arguments, message in [
        ([*folders, "--output_path", str(blocker)], "cannot be written"),
        (
            [*folders, "--output_path", str(tmp_path / "o"), "--num_rows", "-1"],
            "expected 0 or more",
        ),
        ([str(tmp_path / "gone"), "--output_path", str(tmp_path / "o")], "no such file"),
    ]:
        done = run_report(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr


def test_real_predictions_make_a_report(shared, tmp_path):
    files = [shared / f"data/predictions/vicuna/{name}-13b.jsonl" for name in ("llama", "vicuna")]
    systems = load_systems(files, references=shared / "data/bench/vicuna/valid.jsonl")
    page, _ = write_report(systems, tmp_path / "out", num_rows=5)
    text = page.read_text(encoding="utf-8")
    assert "18.25" in text
    assert "28.61" in text
    assert "vicuna-13b scores higher" in text
    assert text.count("<article>") == 5
    Tags(text)


def test_printable_text_is_cut_where_it_is_endless():
    assert printable("a\tb\nc\r\nd\re") == "a\tb\nc\nd\\x0de"
    assert printable("x" * 7000) == "x" * 6000 + " [... 1000 more characters]"


def test_prompt_is_instruction_and_input_or_the_ready_prompt():
    assert prompt_text({"instruction": "Do", "input": "this"}) == "Do\nthis"
    assert prompt_text({"instruction": "Do", "input": ""}) == "Do"
    assert prompt_text({"prompt": "Ready"}) == "Ready"
    assert prompt_text({}) == ""


def test_a_page_of_others_is_not_replaced(folders, tmp_path):
    page, _ = write_report(load_systems(folders), tmp_path / "out")
    assert write_report(load_systems(folders), tmp_path / "out")[0] == page
    page.write_text("<!doctype html><title>Profits</title>")
    with pytest.raises(DistillensError, match=r"--output_path: .*is no report of this"):
        write_report(load_systems(folders), tmp_path / "out")
    assert "Profits" in page.read_text()


def test_a_text_of_others_is_not_replaced(folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    notes = out / "report.md"
    notes.write_text("# Evaluation\n\n## My notes\n")
    done = run_report(*folders, "--output_path", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--output_path: {notes} is no report of this project" in done.stderr
    with pytest.raises(DistillensError, match="is no report of this project"):
        write_report(load_systems(folders), out)
    assert [path.name for path in out.iterdir()] == ["report.md"]
    assert "My notes" in notes.read_text()


def test_a_text_of_ours_is_replaced_also_one_without_a_mark(folders, tmp_path):
    systems, out = load_systems(folders), tmp_path / "out"
    _, markdown = write_report(systems, out)
    text = markdown.read_text(encoding="utf-8")
    mark, _, older = text.partition("\n\n")
    assert mark.startswith("<!-- ")
    assert write_report(systems, out)[1] == markdown
    # As earlier versions wrote it, beside its page.
    markdown.write_text(older, encoding="utf-8")
    write_report(systems, out)
    assert markdown.read_text(encoding="utf-8") == text
    markdown.write_text("# My notes\n")
    with pytest.raises(DistillensError, match="is no report of this project"):
        write_report(systems, out)


def test_each_task_has_figures_of_its_own_whatever_its_name(tmp_path):
    tasks = ["数学", "语文", "a b", "a_b"]
    samples = make_samples([["x", "y"], ["z", "z"]])
    path = write_results(make_results("m", *(make_task(t, samples) for t in tasks)), tmp_path)
    _, markdown = write_report(load_systems([path]), tmp_path / "out")
    plots = [f.name for f in (tmp_path / "out" / "plots").iterdir()]
    assert len(plots) == 2 * len(tasks)
    shown = re.findall(r"\(plots/([^)]*)\)", markdown.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(plots)
    assert "a_b_scores.png" in plots


def test_unwritable_folder_is_refused(folders, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DistillensError, match="cannot be written"):
        write_report(load_systems(folders), tmp_path / "file" / "below")
