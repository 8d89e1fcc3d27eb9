"""The scores are rouge-score's own, whichever backend gives them."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.scoring import rouge_workers
from eval_harness.scoring.rouge import rouge_backend, rouge_l, rouge_version
from eval_harness.shared.files.jsonl import read_jsonl

PREDICTIONS = {
    "self_inst/davinci": 2.8252,
    "self_inst/text-davinci-003": 33.6378,
    "vicuna/llama-13b": 18.2477,
    "vicuna/vicuna-13b": 28.6133,
}
NASTY = [
    "",
    " ",
    "\n\n",
    "running runners ran",
    "The quick brown fox",
    "emoji 😀 text 👩‍👩‍👧 more 🇩🇪",
    "nul\x00in\x00between",
    "lone \ud800 surrogate",
    "\udfff",
    "half \ud83d then \ude00 half",
    "line\u2028separator\u2029and\u0085next",
    "\ufefftext with a mark",
    "crlf\r\nline\rend",
    "İstanbul K ſ ß Å",
    "under_score foo-bar it's 3.14 1,000",
    "naïve café résumé",
    "ＦＵＬＬ ｗｉｄｔｈ １２３",
    "word " * 300,
    "a" * 5000,
    "sses ies ational tional enci anci izer ising",
]

needs_native = pytest.mark.skipif(
    rouge_backend() != "rouge-score-rs", reason="rouge-score-rs (the `fast` extra) not installed"
)


def reference_scores(predictions: list[str], references: list[list[str]]) -> list[float]:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [
        float(scorer.score_multi(targets, text)["rougeL"].fmeasure)
        for text, targets in zip(predictions, references, strict=True)
    ]


@pytest.fixture(scope="module")
def prediction_files(shared) -> dict[str, tuple[list[str], list[list[str]]]]:
    files = {}
    for name in PREDICTIONS:
        rows = [row for _, row in read_jsonl(shared / f"data/predictions/{name}.jsonl")]
        task = name.split("/")[0]
        targets = {
            row["id"]: [row["output"]]
            for _, row in read_jsonl(shared / f"data/bench/{task}/valid.jsonl")
        }
        files[name] = [row["text"] for row in rows], [targets[row["id"]] for row in rows]
    return files


@pytest.mark.parametrize("backend", [pytest.param("rouge-score-rs", marks=needs_native), None])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_real_predictions_score_as_the_reference_scorer_does(name, backend, prediction_files):
    texts, targets = prediction_files[name]
    scores = rouge_l(texts, targets, backend=backend or "rouge-score")
    assert scores == reference_scores(texts, targets)
    assert round(100 * sum(scores) / len(scores), 4) == PREDICTIONS[name]


@needs_native
def test_both_backends_agree_on_every_training_and_validation_output(shared):
    train = [row["output"] for _, row in read_jsonl(shared / "data/train.jsonl")]
    valid = [row["output"] for _, row in read_jsonl(shared / "data/valid.jsonl")]
    targets = [[valid[index % len(valid)]] for index in range(len(train))]
    native = rouge_l(train, targets, backend="rouge-score-rs")
    assert native == rouge_l(train, targets, backend="rouge-score")
    assert sum(score > 0 for score in native) > len(train) / 4


@needs_native
def test_both_backends_agree_on_nasty_text():
    predictions = [text for text in NASTY for _ in NASTY]
    targets = [[text] for _ in NASTY for text in NASTY]
    assert rouge_l(predictions, targets, backend="rouge-score-rs") == reference_scores(
        predictions, targets
    )


@needs_native
def test_both_backends_find_the_same_words_around_every_code_point():
    # Lower-casing turns some other letters into a-z (the Kelvin sign, the dotted I).
    from rouge_score.tokenize import tokenize
    from rouge_score_rs.tokenize import tokenize as tokenize_natively

    for start in range(0, sys.maxunicode + 1, 4096):
        text = " ".join(f"x{chr(point)}y" for point in range(start, start + 4096))
        assert tokenize_natively(text, None) == tokenize(text, None)


@needs_native
@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("aeingstlyzE 10\n.-İK\ud800\x00é"), max_size=60),
    st.lists(
        st.text(alphabet=st.sampled_from("aeingstlyzE 10\n.-İK\ud800\x00é"), max_size=60),
        min_size=1,
        max_size=3,
    ),
)
def test_both_backends_agree_on_random_text(prediction, targets):
    native = rouge_l([prediction], [targets], backend="rouge-score-rs")
    assert native == reference_scores([prediction], [targets])


@pytest.mark.parametrize("backend", [pytest.param("rouge-score-rs", marks=needs_native), None])
def test_best_reference_counts(backend):
    targets = [["nothing alike", "the cat sat", "a cat"], ["dogs"]]
    scores = rouge_l(["the cat sat", "a dog"], targets, backend=backend or "rouge-score")
    assert scores[0] == 1.0
    assert scores[1] == pytest.approx(2 / 3)


def test_text_without_letters_or_digits_scores_zero_even_against_itself():
    assert rouge_l(["😀", ""], [["😀"], [""]]) == [0.0, 0.0]


@pytest.fixture
def costly_rows(monkeypatch) -> tuple[list[str], list[list[str]]]:
    """Makes little work count as much, so that processes are started for it."""
    monkeypatch.setattr(rouge_workers, "_COST_PER_WORKER", 1)
    return NASTY, [[text, "the brown fox runs"] for text in reversed(NASTY)]


def test_workers_give_the_values_of_one_process_in_order(costly_rows):
    texts, targets = costly_rows
    scores = rouge_l(texts, targets, backend="rouge-score", num_workers=3)
    assert scores == reference_scores(texts, targets)


def test_failing_worker_is_reported_with_its_last_line(costly_rows, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\ncat > /dev/null\necho first >&2\necho no memory >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(rouge_workers.sys, "executable", str(fake))
    with pytest.raises(RunFailure, match="ended with 3: no memory"):
        rouge_l(*costly_rows, backend="rouge-score", num_workers=2)


def test_worker_that_dies_before_reading_is_reported(costly_rows, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 9\n")
    fake.chmod(0o755)
    monkeypatch.setattr(rouge_workers.sys, "executable", str(fake))
    with pytest.raises(RunFailure, match="ended with 9: no message"):
        rouge_l(*costly_rows, backend="rouge-score", num_workers=2)


def test_lengths_must_agree_and_every_row_needs_a_reference():
    with pytest.raises(ValueError, match="2 predictions, but 1 reference"):
        rouge_l(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="row 1 has no reference"):
        rouge_l(["a", "b"], [["a"], []])


def test_unknown_backend_is_refused_by_name():
    with pytest.raises(DistillensError, match="'rouge' is not known; expected rouge-score-rs or"):
        rouge_backend("rouge")


def test_falls_back_to_rouge_score_and_says_so(monkeypatch):
    from importlib import util

    find_spec = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name: None if name == "rouge_score_rs" else find_spec(name)
    )
    assert rouge_backend() == "rouge-score"
    with pytest.raises(DistillensError, match="pip install rouge-score-rs"):
        rouge_backend("rouge-score-rs")
    assert rouge_version("rouge-score").startswith("rouge-score 0.")
