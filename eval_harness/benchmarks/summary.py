"""A benchmark and its rows in one line, for people."""

from eval_harness.benchmarks.definition import Benchmark
from eval_harness.benchmarks.rows import data_digest, load_fewshot, load_rows
from eval_harness.scoring.rouge_words import num_without_words


def summary(benchmark: Benchmark) -> str:
    """What `eval-harness validate` says about a benchmark.

    Raises:
        DistillensError: the rows cannot be read, or one of them is malformed.
    """
    rows, examples = load_rows(benchmark), load_fewshot(benchmark)
    references = sum(len(row.references) for row in rows)
    without = sum(not row.references for row in rows)
    wordless = num_without_words(row.references for row in rows if row.references)
    conversations = sum(row.conversation is not None for row in rows)
    with_input = sum(bool(row.input) for row in rows)
    return (
        f"{benchmark.task}: {len(rows)} rows, {with_input} with an input, "
        + (f"{conversations} with messages, " if conversations else "")
        + (f"{len(examples)} for --num_fewshot, " if examples else "")
        + f"{references} references, metrics {', '.join(benchmark.metrics) or 'none'}, data "
        f"{data_digest(rows)}, from {benchmark.location()}"
        + (f"; {without} rows have no reference" if without else "")
        + (f"; {wordless} rows have no reference with a word for ROUGE-L" if wordless else "")
    )
