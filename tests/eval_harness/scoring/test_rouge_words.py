"""What ROUGE-L cannot see is counted and told, in results, tables and comparisons."""

import json

import pytest
from result_samples import make_results, make_samples, make_task

from eval_harness.comparison.compare import compare_loaded
from eval_harness.comparison.systems import load_systems
from eval_harness.results.folder import load_results, write_results
from eval_harness.scoring.rouge import rouge_l
from eval_harness.scoring.rouge_words import has_rouge_word, num_without_words, without_words_note
from eval_harness.scoring.task_metrics import task_metrics

TEXTS = ["a", "北京", "", "7", "É", "\u0130", "\u212a", "日本 2", "ß", "\uff11", "x\ud800", "-- !"]


@pytest.mark.parametrize("backend", ["rouge-score", "rouge-score-rs"])
def test_a_text_has_a_word_where_it_scores_against_itself(backend):
    pytest.importorskip(backend.replace("-", "_"), reason=f"{backend} is not installed")
    scores = rouge_l(TEXTS, [[text] for text in TEXTS], backend=backend)
    assert [score > 0 for score in scores] == [has_rouge_word(text) for text in TEXTS]


def test_a_row_counts_only_where_none_of_its_references_has_a_word():
    assert num_without_words([["北京"], ["北京", "Beijing"], ["x"], [""]]) == 2


def test_the_note_tells_how_many():
    assert without_words_note(0, 3) is None
    assert "3 of 3 rows" in str(without_words_note(3, 3))


def test_metrics_and_comparisons_tell_it(tmp_path):
    samples = make_samples([["北京", "x"], ["b", "c"]], references=[["北京"], ["b"]])
    metrics = task_metrics(samples)
    assert metrics["num_references_without_words,none"] == 1
    assert metrics["num_answers_without_words,none"] == 1
    for name in ("one", "two"):
        write_results(make_results(name, make_task("t", samples)), tmp_path)
    systems = load_systems([tmp_path / "one", tmp_path / "two"])
    (note,) = compare_loaded(systems).notes
    assert note.startswith("t: rougeL: 1 of 2 rows")


def test_a_run_tells_it_in_results_table_and_on_stderr(harness, small_gpt2, tmp_path):
    rows = [{"instruction": "Capital?", "output": output} for output in ("北京", "Lima")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "zh.yaml").write_text("task: zh\npath: rows.jsonl\n")
    done = harness(
        *("run", "--model", "hf", "--model_args", f"pretrained={small_gpt2},dtype=float32"),
        *("--tasks", "zh.yaml", "--protocol", "greedy", "--gen_kwargs", "max_gen_toks=4"),
        *("--device", "cpu", "--output_path", "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "zh: rougeL: 1 of 2 rows" in done.stdout
    assert "zh: rougeL: 1 of 2 rows" in done.stderr
    metrics = load_results(tmp_path / "out").tasks["zh"].metrics
    assert metrics["num_references_without_words,none"] == 1
