"""Benchmarks: small YAML files that define where the rows are and how they are scored."""

from eval_harness.benchmarks.definition import Benchmark, load_benchmark
from eval_harness.benchmarks.registry import find_benchmarks, select_benchmarks
from eval_harness.benchmarks.rows import Row, data_digest, load_fewshot, load_rows

__all__ = [
    "Benchmark",
    "Row",
    "data_digest",
    "find_benchmarks",
    "load_benchmark",
    "load_fewshot",
    "load_rows",
    "select_benchmarks",
]
