"""Marks for a newline: the benchmark's, or else the protocol's, on all sides alike."""

import json

import pytest

from eval_harness.benchmarks import load_benchmark
from eval_harness.generation.task import Settings, limited_rows, newlines_read
from eval_harness.protocols.protocol import make_protocol
from eval_harness.scoring.score import score_rows
from eval_harness.shared.text.answers import cut_answer


@pytest.mark.parametrize(
    ("protocol", "mark", "prompt", "reference"),
    [
        ("default", None, "Box<n><br>:", "fn f<n>(x)<br>end"),
        ("greedy", None, "Box<n><br>:", "fn f<n>(x)<br>end"),
        ("default", "<n>", "Box\n<br>:", "fn f\n(x)<br>end"),
        ("minillm", None, "Box\n<br>:", "fn f\n(x)<br>end"),
        # A data set's own mark goes before the protocol's.
        ("minillm", "<br>", "Box<n>\n:", "fn f<n>(x)\nend"),
    ],
)
def test_prompts_references_and_answers_are_read_alike(tmp_path, protocol, mark, prompt, reference):
    row = {"prompt": "Box<n><br>:", "output": "fn f<n>(x)<br>end"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    extra = f"newline: {json.dumps(mark)}\n" if mark else ""
    (tmp_path / "code.yaml").write_text(f"task: code\npath: rows.jsonl\n{extra}")
    settings = Settings(
        model="hf",
        model_args={},
        benchmarks=[load_benchmark(tmp_path / "code.yaml")],
        protocol=make_protocol(protocol),
        output_path=tmp_path / "out",
    )
    (benchmark,) = newlines_read(settings)
    _, (read,) = limited_rows(benchmark, None)
    assert (read.prompt, read.references) == (prompt, (reference,))
    answer = cut_answer(row["output"], newline=benchmark.newline, references=read.references)
    assert score_rows([answer], [read.references]) == {"rougeL": [1.0], "exact_match": [1.0]}
