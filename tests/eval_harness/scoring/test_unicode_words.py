"""ROUGE-L of words in any script: against a naive reading of the rules, and beside `rougeL`."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_harness.errors import DistillensError
from eval_harness.scoring import rouge_workers
from eval_harness.scoring.rouge import rouge_l
from eval_harness.scoring.unicode_words import has_unicode_word, unicode_words
from eval_harness.shared.files.jsonl import read_jsonl

BACKENDS = ["rouge-score", "rouge-score-rs"]
# Letters, marks, numbers and what separates, of scripts with and without spaces.
LETTERS = "aZéßİſǅЖёαΣعربीनकि안국" + "漢字々〇ひがパーｶﾞไทำก็ລາວខ្មែរမြန်" + "7٣๒②½Ⅷ²"
OTHERS = " \n.,-_'’·、。।\u200b\u200c\u200d\u00ad\ufe0f\u0301😀👩\ud800$+"
TEXT = st.text(alphabet=st.sampled_from(LETTERS + OTHERS), max_size=24)


def naive_words(text: str) -> list[str]:
    """The rules one character at a time, scripts by the names of their letters."""
    text = "".join(c for c in text if c not in "\u200c\u200d\u00ad\ufe0f")
    text = unicodedata.normalize("NFKC", text)
    text = unicodedata.normalize("NFKC", text.casefold())
    words: list[str] = []
    kind = None
    for character in text:
        category = unicodedata.category(character)
        name = unicodedata.name(character, "")
        without_spaces = name.startswith(
            ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
        ) and category in ("Lo", "Lm", "Nl")
        if without_spaces:
            words.append(character)
            kind = "alone"
        elif category[0] in "LN":
            if kind != "run":
                words.append("")
            words[-1] += character
            kind = "run"
        elif category[0] == "M" and kind is not None:
            words[-1] += character
        else:
            kind = None
    return words


def naive_rouge(answer: list[str], reference: list[str]) -> float:
    """F-measure of the longest common subsequence, by its definition."""
    longest = [[0] * (len(reference) + 1) for _ in range(len(answer) + 1)]
    for i, word in enumerate(answer):
        for j, other in enumerate(reference):
            longest[i + 1][j + 1] = (
                longest[i][j] + 1 if word == other else max(longest[i][j + 1], longest[i + 1][j])
            )
    if longest[-1][-1] == 0:
        return 0.0
    precision, recall = longest[-1][-1] / len(answer), longest[-1][-1] / len(reference)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't run 3.50 under_score", "i don t run 3 50 under score"),
        ("iPhone手机真好！2026年", "iphone 手 机 真 好 2026 年"),
        ("コーヒー、人々", "コ ー ヒ ー 人 々"),
        ("ｶﾞ か\u3099", "ガ が"),
        ("二〇二六", "二 〇 二 六"),
        ("ภาษาไทย ๑๒", "ภ า ษ า ไ ท ย ๑๒"),
        ("ខ្មែរ", "ខ្ មែ រ"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("안녕하세요 세계", "안녕하세요 세계"),
        ("می\u200cخواهم", "میخواهم"),
        ("Straße STRASSE e\u0301té été", "strasse strasse été été"),
        ("😀 — ! \ud800 \u0301", ""),
    ],
)
def test_words_of_scripts(text, words):
    assert unicode_words(text) == words.split()
    assert has_unicode_word(text) is bool(words)


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_words_are_those_of_the_naive_reading(text):
    assert unicode_words(text) == naive_words(text)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT)
def test_scores_are_those_of_the_naive_reading(backend, answer, reference):
    pytest.importorskip(backend.replace("-", "_"), reason=f"{backend} is not installed")
    # Stems are rouge-score's business; here no word of a-z is long enough to have one.
    words = [naive_words(text) for text in (answer, reference)]
    if all(len(word) <= 3 for text in words for word in text if word.isascii()):
        (score,) = rouge_l([answer], [[reference]], backend=backend, tokenizer="unicode")
        assert score == pytest.approx(naive_rouge(*words), abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(*[st.text(alphabet=[chr(point) for point in range(128)], max_size=60)] * 2)
def test_text_in_ascii_scores_as_rougel(backend, answer, reference):
    pytest.importorskip(backend.replace("-", "_"), reason=f"{backend} is not installed")
    same = rouge_l([answer], [[reference]], backend=backend)
    assert rouge_l([answer], [[reference]], backend=backend, tokenizer="unicode") == same


@pytest.mark.parametrize("name", ["self_inst/text-davinci-003", "vicuna/vicuna-13b"])
def test_real_answers_in_english_score_as_rougel(name, shared):
    predictions = shared / f"data/predictions/{name}.jsonl"
    texts = {row["id"]: row["text"] for _, row in read_jsonl(predictions)}
    bench = shared / f"data/bench/{name.split('/')[0]}/valid.jsonl"
    rows = [(texts[row["id"]], [row["output"]]) for _, row in read_jsonl(bench)]
    answers = [answer for answer, _ in rows]
    references = [reference for _, reference in rows]
    default, unicode = (
        rouge_l(answers, references, tokenizer=tokenizer) for tokenizer in ("default", "unicode")
    )
    in_ascii = [answer.isascii() and reference[0].isascii() for answer, reference in rows]
    assert sum(in_ascii) > 0.8 * len(rows)
    assert sum(default) > 0.1 * len(rows)
    for score, other, is_ascii in zip(default, unicode, in_ascii, strict=True):
        assert score == other or not is_ascii


def test_workers_give_the_values_of_one_process(monkeypatch):
    answers = ["北京是首都", "running ran", "été", ""]
    references = [["首都是北京", "x"], ["run ran"], ["ete", "été"], ["é"]]
    alone = rouge_l(answers, references, backend="rouge-score", tokenizer="unicode")
    monkeypatch.setattr(rouge_workers, "_COST_PER_WORKER", 1)
    assert alone == rouge_l(
        answers, references, backend="rouge-score", tokenizer="unicode", num_workers=2
    )
    assert alone == pytest.approx([0.4, 1.0, 1.0, 0.0])


def test_a_name_that_is_no_tokenizer_is_refused():
    with pytest.raises(DistillensError, match="'character' is not known, expected default or uni"):
        rouge_l(["a"], [["a"]], tokenizer="character")
