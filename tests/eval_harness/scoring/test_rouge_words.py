"""What ROUGE-L cannot see is counted and told, in results, tables and comparisons."""

import json

import pytest
from result_samples import make_results, make_samples, make_task

from eval_harness import compare, load_benchmark, score
from eval_harness.comparison.compare import compare_loaded
from eval_harness.comparison.systems import load_systems
from eval_harness.results.folder import load_results, write_results
from eval_harness.scoring.metrics import metrics_with
from eval_harness.scoring.rouge import TOKENIZERS, rouge_l
from eval_harness.scoring.rouge_words import SIGHTS, has_rouge_word, num_without_words, word_notes
from eval_harness.scoring.score import score_samples
from eval_harness.scoring.task_metrics import task_metrics

TEXTS = ["a", "北京", "", "7", "É", "\u0130", "\u212a", "日本 2", "ß", "\uff11", "x\ud800", "-- !"]


@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
@pytest.mark.parametrize("backend", ["rouge-score", "rouge-score-rs"])
def test_a_text_has_a_word_where_it_scores_against_itself(backend, tokenizer):
    pytest.importorskip(backend.replace("-", "_"), reason=f"{backend} is not installed")
    scores = rouge_l(TEXTS, [[text] for text in TEXTS], backend=backend, tokenizer=tokenizer)
    has_word = SIGHTS[TOKENIZERS[tokenizer]].has_word
    assert [score > 0 for score in scores] == [has_word(text) for text in TEXTS]
    assert has_rouge_word("É") is False


def test_a_row_counts_only_where_none_of_its_references_has_a_word():
    rows = [["北京"], ["北京", "Beijing"], ["x"], [""]]
    assert num_without_words(rows) == 2
    assert num_without_words(rows, "rougeL_unicode") == 1


def test_the_notes_tell_how_many_and_what_to_read_instead():
    counts = {"num_references_without_words": 0}
    assert word_notes(counts, 3, suffix="") == []
    counts["num_references_without_words"] = 3
    (note,) = word_notes(counts, 3, suffix="")
    assert "3 of 3 rows" in note
    assert "--rouge_tokenizer unicode" in note
    counts["num_references_without_unicode_words"] = 1
    blind, other = word_notes(counts, 3, suffix="")
    assert blind.endswith("see rougeL_unicode")
    assert other.startswith("rougeL_unicode: 1 of 3 rows")


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


def test_a_comparison_computes_what_runs_did_not(harness, tmp_path):
    answers = {"one": [["北京", "x"], ["b", "c"]], "two": [["京", "北"], ["b", "b"]]}
    for name, texts in answers.items():
        samples = make_samples(texts, references=[["北京"], ["😀"]])
        if name == "one":
            score_samples(samples, metrics=["rougeL_unicode"])
        write_results(make_results(name, make_task("t", samples)), tmp_path)
    paths = [tmp_path / name for name in answers]
    assert any("rougeL_unicode is not compared" in n for n in compare(*paths).notes)
    found = compare(*paths, rouge_tokenizer="unicode")
    assert found.systems["two"]["tasks"]["t"]["rougeL_unicode_per_seed,none"] == [33.3333, 33.3333]
    assert [note.partition(",")[0] for note in found.notes] == [
        "t: rougeL: 2 of 2 rows have no reference with a word that ROUGE-L sees (a-z and 0-9 only)",
        "t: rougeL_unicode: 1 of 2 rows have no reference with a word that ROUGE-L sees (letters "
        "and numbers)",
    ]
    flag = ("--rouge_tokenizer", "unicode")
    assert f"{found}\n" == harness("compare", *paths, *flag).stdout
    pytest.importorskip("matplotlib", reason="matplotlib (the report extra) is not installed")
    done = harness("report", *paths, *flag, "--output_path", "page")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    # Where rougeL sees nothing, the page is about what does.
    assert "rougeL\\_unicode \\~ words" in page
    assert "- t: rougeL\\_unicode: 1 of 2 rows" in page


def test_a_run_tells_it_in_results_table_and_on_stderr(harness, small_gpt2, tmp_path):
    rows = [{"instruction": "Capital?", "output": output} for output in ("北京", "Lima", "😀")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "zh.yaml").write_text("task: zh\npath: rows.jsonl\n")
    done = harness(
        *("run", "--model", "hf", "--model_args", f"pretrained={small_gpt2},dtype=float32"),
        *("--tasks", "zh.yaml", "--protocol", "greedy", "--gen_kwargs", "max_gen_toks=4"),
        *("--device", "cpu", "--output_path", "out", "--rouge_tokenizer", "unicode"),
    )
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert "zh: rougeL: 2 of 3 rows" in text
        assert "zh: rougeL_unicode: 1 of 3 rows" in text
    assert "zh    3     rougeL_unicode" in done.stdout
    (file,) = (tmp_path / "out").glob("*/results_*.json")
    written = json.loads(file.read_bytes())
    assert [entry["metric"] for entry in written["configs"]["zh"]["metric_list"]] == [
        *("rougeL", "rougeL_unicode", "exact_match")
    ]
    assert written["higher_is_better"]["zh"]["rougeL_unicode"] is True
    assert written["results"]["zh"]["num_references_without_words,none"] == 2
    assert written["results"]["zh"]["num_references_without_unicode_words,none"] == 1
    task = load_results(tmp_path / "out").tasks["zh"]
    notes = word_notes(task.metrics, task.num_effective)
    assert [note.partition(" have")[0] for note in notes] == [
        *("rougeL: 2 of 3 rows", "rougeL_unicode: 1 of 3 rows")
    ]
    assert task.fingerprint.versions["rouge_tokenizer"].startswith("unicode-1, regex ")
    assert set(task.samples[0].scores) == {"rougeL", "rougeL_unicode", "exact_match"}


def test_scores_of_files_and_texts_have_the_metric_where_it_is_asked_for(harness, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": 1, "text": "首都是北京"}\n', encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "output": "北京是首都"}\n', encoding="utf-8")
    files = ("--predictions", "answers.jsonl", "--references", "rows.jsonl")
    done = harness("score", *files, "--rouge_tokenizer", "unicode")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("it says nothing here, see rougeL_unicode\n")
    found = json.loads(done.stdout)
    assert found["rows"][0]["rougeL_unicode"] == pytest.approx(0.4)
    assert (found["rougeL"], found["rougeL_unicode"]) == (0.0, 40.0)
    assert found["num_references_without_unicode_words"] == 0
    in_memory = score(["首都是北京"], ["北京是首都"], rouge_tokenizer="unicode")
    del found["rows"], in_memory["rows"]
    assert in_memory == found
    assert "rougeL_unicode" not in score(["首都是北京"], ["北京是首都"])
    wrong = harness("score", *files, "--rouge_tokenizer", "words")
    assert wrong.returncode == 2
    assert "'words' is not known, expected default or unicode" in wrong.stderr


def test_a_benchmark_file_may_ask_for_it(tmp_path):
    (tmp_path / "zh.yaml").write_text(
        "task: zh\npath: rows.jsonl\nmetrics: [exact_match, rougeL, rougeL_unicode]\n"
    )
    benchmark = load_benchmark(tmp_path / "zh.yaml")
    assert metrics_with(benchmark.metrics, "unicode") == benchmark.metrics
