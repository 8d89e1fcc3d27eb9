"""`until:` in a benchmark's file: what goes before what, in runs and in exported tasks."""

import importlib.util
import json

import pytest

from eval_harness import evaluate
from eval_harness.benchmarks import load_benchmark, select_benchmarks
from eval_harness.benchmarks.lm_eval_export import export_tasks
from eval_harness.errors import DistillensError
from eval_harness.protocols.protocol import PROTOCOLS, make_protocol
from eval_harness.shared.text.prompt_starts import prompt_starts


def benchmark_file(folder, extra="", output="hi"):
    row = {"prompt": "Say hi.", "output": output}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    file = folder / "mine.yaml"
    file.write_text(f"task: mine\npath: rows.jsonl\n{extra}")
    return file


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", None),
        ("until:", None),
        ('until: "\\nQ:"', ("\nQ:",)),
        ("until: [END, STOP, END]", ("END", "STOP")),
        ("until: []", ()),
    ],
)
def test_one_text_or_a_list_is_read(tmp_path, extra, expected):
    assert load_benchmark(benchmark_file(tmp_path, extra)).until == expected


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('until: ""', "mine.yaml: until: found an empty text"),
        ("until: [a, 1]", r"mine.yaml: until=\['a', 1\]: expected a text or a list of texts"),
        ("until: {a: b}", "expected a text or a list of texts"),
        ("until: 3", "expected a text or a list of texts"),
    ],
)
def test_other_values_are_refused(tmp_path, extra, message):
    with pytest.raises(DistillensError, match=message):
        load_benchmark(benchmark_file(tmp_path, extra))


def test_a_run_cuts_stored_answers_where_flag_benchmark_or_template_says(tmp_path, small_gpt2):
    def run(extra="", output="hi", **settings):
        results = evaluate(
            small_gpt2,
            benchmark_file(tmp_path, extra, output),
            output_path=tmp_path / "out",
            **{"gen_kwargs": {"max_gen_toks": 12}, "protocol": "greedy", **settings},
        )
        task = results.tasks["mine"]
        return task.samples[0], task.fingerprint.protocol["until"], task.config

    sample, until, config = run()
    whole = sample.resps[0].strip()
    assert until == list(prompt_starts("alpaca"))
    assert "until" not in config
    assert sample.finish_reason == ["length"]
    middle, late = whole[len(whole) // 3], whole[len(whole) // 2 :]
    extra = f"until: {json.dumps([middle])}\n"
    sample, until, config = run(extra)
    assert sample.resps[0].strip() == whole
    assert sample.filtered_resps == [whole.split(middle)[0].strip()] != [whole]
    # Before the limit, which is where the rest of it was cut off.
    assert (sample.finish_reason, sample.num_tokens) == (["stop"], [12])
    assert until == config["until"] == [middle]
    assert sample.arguments["gen_args_0"]["arg_1"]["until"] == ["<|endoftext|>", middle]
    sample, until, _ = run(extra, gen_kwargs={"max_gen_toks": 12, "until": late})
    assert (sample.filtered_resps, until) == ([whole.split(late)[0].strip()], [late])
    # A stop that somebody names is not the reference's to switch off.
    sample, _, _ = run(extra, output=whole)
    assert sample.filtered_resps == [whole.split(middle)[0].strip()]
    # The reference's rules stay its own: its answers run on.
    _, until, _ = run(extra, protocol="minillm", seeds=[10], model_args={"dtype": "float32"})
    assert until == []


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (PROTOCOLS["greedy"], "hi"),
        (make_protocol("greedy", gen_kwargs={"until": ["there"]}), "hi END"),
        (PROTOCOLS["minillm"], "hi END there"),
    ],
)
def test_an_exported_task_cuts_alike(tmp_path, protocol, expected):
    functions, text = exported(tmp_path, "until: [END]\n", protocol)
    stops = {"hi": "END", "hi END": "there"}.get(expected)
    assert (f"- {stops}\n" in text) == (stops is not None)
    # Also in a row that has the stop in one of its references.
    output = [expected, "there is no END"]
    scores = functions.results_mine({"output": output}, ["hi END there"])
    assert scores["exact_match"] == 100.0


def test_an_exported_task_has_the_template_s_stops_where_nobody_names_one(tmp_path):
    functions, _ = exported(tmp_path, "template: question\n", PROTOCOLS["greedy"])
    for output, expected in (("hi", 100.0), ("hi\nQuestion: 2?", 100.0), ("hi\nQuestion: 3?", 0.0)):
        scores = functions.results_mine({"output": output}, ["hi\nQuestion: 2?"])
        assert scores["exact_match"] == expected, output


def exported(folder, extra, protocol):
    """The functions of an exported task, and the text of its file."""
    benchmarks = select_benchmarks(str(benchmark_file(folder, extra)), {})
    (file,) = export_tasks(benchmarks, protocol, folder / "out")
    spec = importlib.util.spec_from_file_location(
        "functions_with_until", folder / "out/distillens_functions.py"
    )
    functions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(functions)
    return functions, file.read_text()
