"""Exported tasks: loadable YAML, the same prompts and scores, and the same numbers in lm-eval."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from lm_eval_run import compare_samples

from eval_harness.benchmarks import find_benchmarks, load_rows, select_benchmarks
from eval_harness.benchmarks.lm_eval_export import export_tasks
from eval_harness.cli import main
from eval_harness.protocols.protocol import PROTOCOLS
from eval_harness.scoring.score import score_rows
from eval_harness.shared.text.answers import final_answer_score
from eval_harness.shared.text.templates import render_prompt


class _TaskLoader(yaml.SafeLoader):
    """lm-eval's `!function module.name` as plain text."""


def _as_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return str(loader.construct_scalar(node))


_TaskLoader.add_constructor("!function", _as_text)


def functions_of(folder: Path):
    path = folder / "distillens_functions.py"
    spec = importlib.util.spec_from_file_location("distillens_functions_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(folder: Path, tasks: str = "gsm8k,uinst", protocol: str = "greedy") -> list[Path]:
    return export_tasks(select_benchmarks(tasks, find_benchmarks()), PROTOCOLS[protocol], folder)


def test_task_files_name_data_settings_and_functions(tmp_path):
    gsm8k, uinst = (
        yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskLoader) for file in export(tmp_path)
    )
    assert gsm8k["task"] == "distillens_gsm8k"
    assert gsm8k["generation_kwargs"] == {
        "until": ["<|endoftext|>", *PROTOCOLS["greedy"].stops],
        "max_gen_toks": 256,
        "do_sample": False,
        "temperature": 0.0,
    }
    metrics = [entry["metric"] for entry in gsm8k["metric_list"]]
    assert metrics == ["rougeL", "exact_match", "final_answer"]
    assert uinst["doc_to_text"] == "distillens_functions.prompt_uinst"
    assert uinst["custom_dataset"] == "distillens_functions.rows_uinst"
    assert functions_of(tmp_path).DATA == {
        "gsm8k": "data/gsm8k.jsonl",
        "uinst": "hf://datasets/MiniLLM/uinst@main/11_/valid.jsonl",
    }


def test_the_minillm_protocol_goes_into_the_generation_settings(tmp_path):
    (file,) = export(tmp_path, "uinst", "minillm")
    settings = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskLoader)["generation_kwargs"]
    assert settings["do_sample"] is True
    assert settings["no_repeat_ngram_size"] == 6
    assert (settings["temperature"], settings["top_k"]) == (1.0, 0)
    assert settings["until"] == ["<|endoftext|>"]


def test_functions_give_our_prompts_and_scores(tmp_path):
    export(tmp_path)
    functions = functions_of(tmp_path)
    lines = (tmp_path / "data/gsm8k.jsonl").read_bytes().split(b"\n")
    docs = [json.loads(line) for line in lines if line]
    rows = load_rows(find_benchmarks()["gsm8k"])
    assert len(docs) == len(rows)
    for doc, row in list(zip(docs, rows, strict=True))[:20]:
        assert functions.prompt_gsm8k(doc) == render_prompt("alpaca", row.instruction, row.input)
        assert functions.target_gsm8k(doc) == row.references[0]
        answer = row.references[0][10:] + "<|endoftext|> beyond"
        expected = score_rows([row.references[0][10:]], [row.references])
        assert functions.results_gsm8k(doc, [answer]) == {
            "rougeL": 100 * expected["rougeL"][0],
            "exact_match": 100 * expected["exact_match"][0],
            "final_answer": 100 * final_answer_score(answer[:-20], row.references),
        }


def test_ready_prompts_and_lists_of_references_pass(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say hi.", "output": ["hi", "hello"]}\n')
    (tmp_path / "mine-1.yaml").write_text("task: mine-1\npath: rows.jsonl\n")
    benchmarks = select_benchmarks(str(tmp_path / "mine-1.yaml"), {})
    export_tasks(benchmarks, PROTOCOLS["default"], tmp_path / "out")
    functions = functions_of(tmp_path / "out")
    doc = json.loads((tmp_path / "out/data/mine-1.jsonl").read_text())
    assert functions.prompt_mine_1(doc) == "Say hi."
    assert functions.results_mine_1(doc, ["hello"]) == {"rougeL": 100.0, "exact_match": 100.0}


def test_cut_and_newline_marks_are_those_of_a_run(tmp_path):
    row = {"prompt": "Say<n>hi.", "output": ["", "hi<n>there"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    text = 'task: mine\npath: rows.jsonl\ntemplate: question\nnewline: "<n>"\n'
    (tmp_path / "mine.yaml").write_text(text)
    benchmarks = select_benchmarks(str(tmp_path / "mine.yaml"), {})
    (file,) = export_tasks(benchmarks, PROTOCOLS["default"], tmp_path / "out")
    task = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskLoader)
    assert task["generation_kwargs"]["until"] == ["<|endoftext|>", "\nQuestion:"]
    functions = functions_of(tmp_path / "out")
    for doc in (json.loads((tmp_path / "out/data/mine.jsonl").read_text()), row):
        assert functions.prompt_mine(doc) == "Say\nhi."
        assert functions.target_mine(doc) == "hi\nthere"
        scores = functions.results_mine(doc, ["hi<n>there\nQuestion: more?"])
        assert scores == {"rougeL": 100.0, "exact_match": 100.0}
        # An empty reference beside another is none.
        assert functions.results_mine(doc, [""])["exact_match"] == 0.0


def capitals(folder: Path) -> Path:
    """A benchmark whose rows are where an export would put them."""
    (folder / "data").mkdir(parents=True)
    row = json.dumps({"instruction": "The capital of France?", "output": "Paris"})
    (folder / "data" / "capitals.jsonl").write_text(f"{row}\n")
    (folder / "capitals.yaml").write_text("task: capitals\npath: data/capitals.jsonl\n")
    return folder / "capitals.yaml"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, folder: Path, tasks: str, *flags: str) -> str:
    """What is said of an export that must leave the folder as it is."""
    before = contents(folder)
    assert main(["export-lm-eval", str(folder), "--tasks", tasks, *flags]) == 2
    assert contents(folder) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_folder_with_tasks_or_rows_of_others_is_refused(tmp_path, capsys):
    bench = capitals(tmp_path / "bench").parent
    said = refused(capsys, bench, "capitals", "--include_path", str(bench))
    assert "capitals.yaml: found a file that export-lm-eval did not write" in said
    # Its file elsewhere, its rows here; also by a link, which is followed.
    (bench / "capitals.yaml").rename(tmp_path / "capitals.yaml")
    (tmp_path / "data").symlink_to(bench / "data")
    said = refused(capsys, bench, str(tmp_path / "capitals.yaml"))
    assert "capitals.jsonl: capitals reads its rows here, and they would be replaced" in said
    other = tmp_path / "other.jsonl"
    other.write_bytes((bench / "data" / "capitals.jsonl").read_bytes())
    data = ("--data", f"capitals={other}")
    said = refused(capsys, bench, str(tmp_path / "capitals.yaml"), *data)
    assert "capitals.jsonl: found rows of no exported task" in said
    module = tmp_path / "own" / "distillens_functions.py"
    module.parent.mkdir()
    module.write_text("def mine(): ...\n")
    assert "distillens_functions.py: found a file" in refused(capsys, module.parent, "gsm8k")


def test_tasks_are_exported_again_or_with_more_but_not_without_the_earlier(tmp_path, capsys):
    task, out = str(capitals(tmp_path / "bench")), tmp_path / "out"
    export = ["export-lm-eval", str(out), "--tasks"]
    assert main([*export, task]) == 0
    first = contents(out)
    assert main([*export, task]) == 0
    assert contents(out) == first
    capsys.readouterr()
    assert "distillens_capitals.yaml: found another exported task" in refused(capsys, out, "vicuna")
    assert main([*export, task, "vicuna"]) == 0
    assert {file.stem for file in out.glob("*.yaml")} == {
        "distillens_capitals",
        "distillens_vicuna",
    }
    functions = functions_of(out)
    assert callable(functions.rows_capitals)
    assert callable(functions.rows_vicuna)


def test_tasks_whose_names_differ_in_a_sign_have_functions_of_their_own(tmp_path):
    files = []
    for task in ("mine-1", "mine_1"):
        (tmp_path / f"{task}.jsonl").write_text(json.dumps({"prompt": task, "output": "x"}) + "\n")
        file = tmp_path / f"{task}.yaml"
        file.write_text(f"task: {task}\npath: {task}.jsonl\n")
        files.append(str(file))
    out = tmp_path / "out"
    assert main(["export-lm-eval", str(out), "--tasks", *files]) == 0
    named = [
        re.findall(r"rows_\w+", (out / f"distillens_{task}.yaml").read_text())
        for task in ("mine-1", "mine_1")
    ]
    assert named == [["rows_mine_1"], ["rows_mine_1_2"]]
    functions = functions_of(out)
    assert functions.rows_mine_1 is not functions.rows_mine_1_2


def test_nothing_is_replaced_by_an_export_whose_rows_are_refused(tmp_path, capsys):
    task = str(capitals(tmp_path / "bench"))
    out = tmp_path / "out"
    talk = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    (tmp_path / "talks.yaml").write_text("task: talks\npath: talks.jsonl\n")
    assert main(["export-lm-eval", str(out), "--tasks", task]) == 0
    rows = tmp_path / "bench" / "data" / "capitals.jsonl"
    rows.write_text(rows.read_text().replace("Paris", "Lyon"))
    capsys.readouterr()
    both = f"{task},{tmp_path / 'talks.yaml'}"
    assert "row '0' is a conversation" in refused(capsys, out, both)


@pytest.mark.parametrize(
    ("flags", "exported"),
    [
        ([], {"alpaca_eval", "dolly", "gsm8k", "self_inst", "sinst", "uinst", "vicuna"}),
        (["--tasks", "gsm8k", "dolly,vicuna"], {"gsm8k", "dolly", "vicuna"}),
    ],
)
def test_all_that_have_references_are_exported_or_those_that_are_named(tmp_path, flags, exported):
    assert main(["export-lm-eval", str(tmp_path), "--template", "question", *flags]) == 0
    assert {file.stem for file in tmp_path.glob("*.yaml")} == {f"distillens_{n}" for n in exported}


@pytest.mark.parametrize(
    ("template", "model"), [("question", "small_gpt2"), ("chat", "chat_model")]
)
def test_lm_eval_runs_the_printed_command_and_gets_every_sample(
    harness, tmp_path, template, model, request
):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (it is in the dev extra)")
    how = ("--protocol", "greedy", "--template", template, "--rouge_tokenizer", "unicode")
    exported = harness("export-lm-eval", "first", "--tasks", "gsm8k", *how)
    assert exported.returncode == 0, exported.stderr
    folder = request.getfixturevalue(model)
    ours = compare_samples(harness, folder, tmp_path, exported.stderr, how)
    # The small Llama's answers share no word with the references.
    assert template == "chat" or ours.metrics["rougeL,none"] > 0
