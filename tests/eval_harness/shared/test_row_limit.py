"""`--limit`: rows, or a share of them as lm-eval counts it."""

import json

import pytest

from eval_harness.benchmarks import load_benchmark
from eval_harness.generation.task import limited_rows
from eval_harness.shared.row_limit import num_limited


@pytest.mark.parametrize(
    ("limit", "num_rows", "expected"),
    [
        (None, 7, 7),
        (3, 7, 3),
        (9, 7, 7),
        (0.5, 7, 4),
        (0.29, 100, 29),  # 28.999999999999996
        (0.07, 100, 7),  # 7.000000000000001
        (0.1, 1319, 132),
        (1e-12, 100, 1),
        (0.999, 3, 3),
    ],
)
def test_a_share_is_rounded_up(limit, num_rows, expected):
    assert num_limited(limit, num_rows) == expected


def test_a_run_takes_that_many_rows(tmp_path):
    row = json.dumps({"prompt": "Say hi.", "output": "hi"}) + "\n"
    (tmp_path / "rows.jsonl").write_text(row * 100)
    (tmp_path / "mine.yaml").write_text("task: mine\npath: rows.jsonl\n")
    num_all, rows = limited_rows(load_benchmark(tmp_path / "mine.yaml"), 0.29)
    assert (num_all, len(rows)) == (100, 29)
