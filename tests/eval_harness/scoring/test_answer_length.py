"""Length and repetition of answers."""

import pytest

from eval_harness.results.schema import Sample
from eval_harness.scoring.answer_length import answer_statistics, distinct_runs
from eval_harness.shared.files.jsonl import read_jsonl


def sample(texts: list[str], tokens: list[int] | None = None, reasons: list[str] | None = None):
    return Sample(
        doc_id=0,
        doc={"id": "a"},
        target=["x"],
        arguments={},
        resps=texts,
        filtered_resps=texts,
        seeds=list(range(len(texts))),
        num_tokens=tokens,
        finish_reason=reasons,
    )


def test_distinct_runs_are_counted_over_all_texts():
    assert distinct_runs(["a b c d e"]) == 1.0
    # Five runs, of which "a b c d" comes three times.
    assert distinct_runs(["a b c d", "a b c d", "a b c d e f"]) == pytest.approx(3 / 5)
    assert distinct_runs(["a b c", ""]) is None


def test_runs_do_not_cross_from_one_text_into_the_next():
    assert distinct_runs(["a b c d", "e f g h"]) == 1.0
    assert distinct_runs(["a b", "c d"]) is None


def test_shares_and_means_are_over_rows_and_seeds():
    rows = [
        sample(["one two", ""], [3, 0], ["stop", "stop"]),
        sample(["a b c d", " \u2028\n"], [5, 4], ["length", "stop"]),
    ]
    statistics = answer_statistics(rows)
    assert statistics.length_words == (2 + 0 + 4 + 0) / 4
    assert statistics.length_tokens == 3.0
    assert statistics.empty == 50.0
    assert statistics.cut_off == 25.0
    assert statistics.distinct_4 == 100.0


def test_what_the_backend_did_not_say_is_left_out():
    statistics = answer_statistics([sample(["a"]), sample(["b"], [1])])
    assert statistics.length_tokens is None
    assert set(statistics.as_metrics()) == {"length_words", "empty"}


def test_loops_show_in_distinct_4_on_real_answers(shared):
    def distinct(name: str) -> float:
        rows = read_jsonl(shared / f"data/predictions/{name}.jsonl")
        return 100 * (distinct_runs([row["text"] for _, row in rows]) or 0)

    # The untuned base model runs on in loops to the token limit.
    assert distinct("self_inst/davinci") == pytest.approx(8, abs=1)
    assert distinct("vicuna/vicuna-13b") > 90
