"""Benchmarks that are judged elsewhere, or whose rows lack references: scored where they can be."""

import json
import runpy
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judged_rows import ALPACA_EVAL, IFEVAL, MT_BENCH

from eval_harness.cli import main
from eval_harness.results.folder import load_results

ROWS = {"mt_bench": MT_BENCH, "ifeval": IFEVAL, "alpaca_eval": ALPACA_EVAL}
Run = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """--data for the three benchmarks; AlpacaEval's rows are one array, as on the Hub."""
    folder = tmp_path_factory.mktemp("rows")
    flags = []
    for task, rows in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        text = json.dumps(rows) if task == "alpaca_eval" else lines
        (folder / f"{task}.json").write_text(text, encoding="utf-8")
        flags.append(f"{task}={folder / f'{task}.json'}")
    return flags


@pytest.fixture
def run(small_gpt2: Path, data: list[str], tmp_path: Path) -> Run:
    """Runs tasks in this process, into `out`."""

    def call(*tasks: str, out: str = "out", flags: tuple[str, ...] = ()) -> int:
        own = [flag for flag in data if flag.partition("=")[0] in tasks]
        return main(
            [
                *("run", "--model", "hf", "--model_args", f"pretrained={small_gpt2},dtype=float32"),
                *("--device", "cpu", "--tasks", *tasks, "--output_path", str(tmp_path / out)),
                *(word for flag in own for word in ("--data", flag)),
                *("--gen_kwargs", "max_gen_toks=6", "--seed", "10,20", *flags),
            ]
        )

    return call


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_rows_with_a_reference_are_scored_and_counted(run, tmp_path, capsys):
    pytest.importorskip("langdetect", reason="lm-eval[ifeval] is not installed")
    assert run("mt_bench", "ifeval", "alpaca_eval") == 0
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.splitlines()]
    assert [line[:5] for line in table if line[0] == "mt_bench"] == [
        ["mt_bench", "2", "of", "3", "rougeL"],
        ["mt_bench", "2", "of", "3", "exact_match"],
    ]
    assert next(line[:3] for line in table if line[0] == "alpaca_eval") == [
        "alpaca_eval",
        "2",
        "rougeL",
    ]
    assert [line[2] for line in table if line[0] == "ifeval"] == [
        "prompt_level_strict_acc",
        "inst_level_strict_acc",
        "prompt_level_loose_acc",
        "inst_level_loose_acc",
    ]
    note = "mt_bench: 2 of 3 rows have a reference; the scores are over these"
    assert note in printed
    results = load_results(tmp_path / "out")
    task = results.tasks["mt_bench"]
    assert task.metrics["num_scored,none"] == 2
    assert [sample.target for sample in task.samples] == [
        ["You are in second place."],
        [],
        ["12000"],
    ]
    assert [bool(sample.scores) for sample in task.samples] == [True, False, True]
    aggregations = {
        entry["metric"]: entry["aggregation"]
        for entry in results.tasks["ifeval"].config["metric_list"]
    }
    assert aggregations["inst_level_loose_acc"] == "agg_inst_level_acc"
    assert not list((tmp_path / "out").glob("*/judge_*"))
    # Both tools read what lacks references; a system compared with itself shows no difference.
    assert main(["compare", str(tmp_path / "out"), str(copied(tmp_path / "out"))]) == 0
    compared = capsys.readouterr().out
    assert f"note: {note}" in compared
    assert compared.count("no difference shown") == 4 + 2 + 2


def copied(folder: Path) -> Path:
    """The same results under another name."""
    return Path(shutil.copytree(folder, folder.with_name("other")))


def test_a_report_shows_the_rows_that_are_scored(run, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the report extra)")
    assert run("mt_bench") == 0
    assert main(["report", str(tmp_path / "out"), "--output_path", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page/report.html").read_text(encoding="utf-8")
    assert "You are in second place." in page
    assert "Quarterly" not in page


@pytest.fixture(scope="module")
def judged(small_gpt2: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What --predict_only wrote about the three tasks with two seeds."""
    out = tmp_path_factory.mktemp("judged")
    words = ["run", "--model", "hf", "--model_args", f"pretrained={small_gpt2},dtype=float32"]
    words += ["--device", "cpu", "--tasks", *ROWS, "--output_path", str(out), "--seed", "10,20"]
    words += [word for flag in data for word in ("--data", flag)]
    assert main([*words, "--gen_kwargs", "max_gen_toks=6", "--predict_only"]) == 0
    return out


def answers_of(out: Path, task: str, place: int) -> list[str]:
    samples = load_results(out).tasks[task].samples
    assert all(sample.scores == {} for sample in samples)
    return [sample.filtered_resps[place] for sample in samples]


def test_alpaca_eval_s_judge_gets_a_list_for_each_seed(judged):
    (folder,) = judged.glob("*/judge_alpaca_eval_*")
    assert {path.name for path in folder.iterdir()} == {
        "outputs-seed10.json",
        "outputs-seed20.json",
    }
    for place, seed in enumerate((10, 20)):
        content = json.loads((folder / f"outputs-seed{seed}.json").read_bytes())
        assert [entry["output"] for entry in content] == answers_of(judged, "alpaca_eval", place)
        assert [entry["instruction"] for entry in content] == [
            row["instruction"] for row in ALPACA_EVAL
        ]
        assert [entry["dataset"] for entry in content] == ["helpful_base", "koala"]
        assert {entry["generator"] for entry in content} == {f"{folder.parent.name}-seed{seed}"}


def test_fastchat_gets_its_answers_and_questions_of_one_turn(judged):
    (folder,) = judged.glob("*/judge_mt_bench_*")
    questions = lines_of(folder / "question.jsonl")
    assert [(q["question_id"], q["category"]) for q in questions] == [
        (101, "reasoning"),
        (82, "writing"),
        (112, "math"),
    ]
    assert [q["turns"] for q in questions] == [row["turns"][:1] for row in MT_BENCH]
    assert [q.get("reference") for q in questions] == [
        ["You are in second place."],
        None,
        ["12000"],
    ]
    files = sorted((folder / "model_answer").iterdir())
    assert [file.stem.rpartition("-")[2] for file in files] == ["seed10", "seed20"]
    for place, file in enumerate(files):
        answers = lines_of(file)
        assert [a["question_id"] for a in answers] == [101, 82, 112]
        assert {a["model_id"] for a in answers} == {file.stem}
        assert len({a["answer_id"] for a in answers}) == 3
        assert all(a["tstamp"] > 1e9 for a in answers)
        expected = [
            [{"index": 0, "turns": [text]}] for text in answers_of(judged, "mt_bench", place)
        ]
        assert [a["choices"] for a in answers] == expected


def test_ifeval_s_program_gets_the_rows_and_the_answers(judged):
    (folder,) = judged.glob("*/judge_ifeval_*")
    assert lines_of(folder / "input_data.jsonl") == IFEVAL
    for place, seed in enumerate((10, 20)):
        rows = lines_of(folder / f"input_response_data-seed{seed}.jsonl")
        texts = answers_of(judged, "ifeval", place)
        expected = [
            {"prompt": row["prompt"], "response": text}
            for row, text in zip(IFEVAL, texts, strict=True)
        ]
        assert rows == expected


def test_one_seed_needs_no_suffix_and_the_judge_s_command_is_printed(run, tmp_path, capsys):
    flags = ("--predict_only", "--seed", "10")
    assert run("alpaca_eval", "mt_bench", "ifeval", flags=flags) == 0
    said = {
        line.split(": ")[1]: line.partition("for its judge: ")[2]
        for line in capsys.readouterr().err.splitlines()
        if "for its judge: " in line
    }
    (outputs,) = tmp_path.glob("out/*/judge_*/outputs.json")
    assert shlex.split(said["alpaca_eval"]) == ["alpaca_eval", "--model_outputs", str(outputs)]
    (answers,) = tmp_path.glob("out/*/judge_*/model_answer/*.jsonl")
    assert said["mt_bench"].endswith(f"--bench-name mt_bench_first --model-list {answers.stem}")
    (responses,) = tmp_path.glob("out/*/judge_*/input_response_data.jsonl")
    assert f"--input_response_data={responses}" in shlex.split(said["ifeval"])


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("mt_bench", ("--samples", '{"mt_bench": [1]}'), "none of the 1 rows has a reference"),
        ("ifeval", ("--loglikelihood",), "--loglikelihood: ifeval has no references; drop it"),
        ("ifeval", ("--rouge_tokenizer", "unicode"), "ifeval has no references to compare with"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(run, tmp_path, capsys, task, flags, message):
    assert run(task, flags=flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_questions_alone_need_predict_only(small_gpt2, tmp_path, capsys):
    (tmp_path / "asked.jsonl").write_text('{"instruction": "Why?"}', encoding="utf-8")
    benchmark = tmp_path / "asked.yaml"
    benchmark.write_text("task: asked\npath: asked.jsonl\nreferences: none\n", encoding="utf-8")
    words = ["run", "--model", "hf", "--model_args", f"pretrained={small_gpt2}", "--device", "cpu"]
    words += ["--tasks", str(benchmark), "--output_path", str(tmp_path / "out")]
    words += ["--protocol", "greedy", "--gen_kwargs", "max_gen_toks=4"]
    assert main(words) == 2
    assert "neither references nor metrics" in capsys.readouterr().err
    assert main([*words, "--predict_only", "--write_out"]) == 0
    assert "asked: no reference" in capsys.readouterr().err
    (sample,) = load_results(tmp_path / "out").tasks["asked"].samples
    assert (sample.target, sample.scores) == ([], {})
    assert main(["compare", str(tmp_path / "out"), str(copied(tmp_path / "out"))]) == 2
    assert "no metric that all systems have" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["mt_bench", "ifeval"])
def test_what_is_compared_in_part_or_checked_is_not_exported(task, tmp_path, capsys):
    assert main(["export-lm-eval", str(tmp_path / "tasks"), "--tasks", task]) == 2
    assert f"{task}: a task of lm-eval compares every row" in capsys.readouterr().err


def test_alpaca_eval_s_exported_task_asks_and_compares_as_we_do(tmp_path):
    command = ["export-lm-eval", str(tmp_path / "tasks"), "--tasks", "alpaca_eval"]
    assert main([*command, "--template", "question"]) == 0
    functions = runpy.run_path(str(tmp_path / "tasks/distillens_functions.py"))
    row = ALPACA_EVAL[0]
    assert functions["prompt_alpaca_eval"](row) == "Question: Name a capital.\nAnswer:\n"
    assert functions["target_alpaca_eval"](row) == "Paris is one."
    assert functions["results_alpaca_eval"](row, [" Paris is one."])["exact_match"] == 100
