"""`eval-harness score` as a user runs it."""

import json
import subprocess
import sys

import pytest
from result_samples import NASTY, make_samples

from eval_harness.errors import DistillensError
from eval_harness.scoring.score import named, percent, score_files, score_samples

MEANS = {
    "self_inst/davinci": 2.8252,
    "self_inst/text-davinci-003": 33.6378,
    "vicuna/llama-13b": 18.2477,
    "vicuna/vicuna-13b": 28.6133,
}


def run_score(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval_harness", "score", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def write_lines(path, *lines) -> str:
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A prediction file and a reference file of three rows, in different orders."""
    return (
        write_lines(
            tmp_path / "predictions.jsonl",
            {"id": "c", "text": "something else"},
            {"id": "a", "text": "The cat sat."},
            {"id": "b", "text": ""},
        ),
        write_lines(
            tmp_path / "references.jsonl",
            {"id": "a", "output": ["a dog", "the CAT sat"]},
            {"id": "b", "output": "bird"},
            {"id": "c", "output": ["something"]},
        ),
    )


@pytest.mark.parametrize("name", MEANS)
def test_real_predictions_give_the_published_means(name, shared):
    task = name.split("/")[0]
    done = run_score(
        "--predictions",
        str(shared / f"data/predictions/{name}.jsonl"),
        "--references",
        str(shared / f"data/bench/{task}/valid.jsonl"),
    )
    assert done.returncode == 0
    result = json.loads(done.stdout)
    # One row of self_inst asks for a text in another script.
    assert result["num_references_without_words"] == (task == "self_inst")
    assert ("1 of 252 rows have no reference" in done.stderr) == (task == "self_inst")
    assert done.stderr.count("\n") == (task == "self_inst")
    assert result["rougeL"] == MEANS[name]
    assert result["num_rows"] == len(result["rows"])
    assert all(set(row) == {"id", "rougeL", "exact_match"} for row in result["rows"])
    assert all(0 <= row["rougeL"] <= 1 for row in result["rows"])
    assert (
        round(100 * sum(row["rougeL"] for row in result["rows"]) / result["num_rows"], 4)
        == (MEANS[name])
    )


def test_order_does_not_matter_but_the_best_reference_does(files):
    done = run_score("--predictions", files[0], "--references", files[1])
    result = json.loads(done.stdout)
    scorer = result.pop("scorer")
    assert scorer.split()[0] in ("rouge-score", "rouge-score-rs")
    assert result == {
        "rougeL": round(100 * (1 + 0 + 2 / 3) / 3, 4),
        "exact_match": 33.3333,
        "num_rows": 3,
        "num_references_without_words": 0,
        "num_predictions_without_words": 1,
        "rows": [
            {"id": "a", "rougeL": 1.0, "exact_match": 1.0},
            {"id": "b", "rougeL": 0.0, "exact_match": 0.0},
            {"id": "c", "rougeL": pytest.approx(2 / 3, abs=1e-12), "exact_match": 0.0},
        ],
    }


def test_references_without_a_word_of_rouge_are_counted_and_told(tmp_path):
    rows = [
        ("a", "北京", ["北京"]),
        ("b", "Москва", ["", "Москва"]),
        ("c", "Lima", ["利马", "Lima"]),
    ]
    predictions = [{"id": name, "text": text} for name, text, _ in rows]
    references = [{"id": name, "output": output} for name, _, output in rows]
    files = (write_lines(tmp_path / "p", *predictions), write_lines(tmp_path / "r", *references))
    done = run_score("--predictions", files[0], "--references", files[1])
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["exact_match"] == 100.0
    assert result["num_references_without_words"] == 2
    assert result["num_predictions_without_words"] == 2
    assert "rougeL: 2 of 3 rows have no reference with a word" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_empty_reference_beside_others_gives_an_empty_answer_nothing(tmp_path):
    files = (
        write_lines(tmp_path / "p", {"id": "a", "text": ""}, {"id": "b", "text": ""}),
        write_lines(tmp_path / "r", {"id": "a", "output": ["", "x"]}, {"id": "b", "output": ""}),
    )
    assert [row["exact_match"] for row in score_files(*files)["rows"]] == [0.0, 1.0]


def test_chosen_scorer_is_used_and_named(files):
    result = score_files(*files, backend="rouge-score")
    assert result["scorer"].startswith("rouge-score 0.")
    assert result["rows"] == score_files(*files)["rows"]


def test_nasty_text_is_scored(tmp_path):
    predictions = write_lines(tmp_path / "p", {"id": NASTY, "text": NASTY}, {"id": 7, "text": "é"})
    references = write_lines(
        tmp_path / "r", {"id": "7", "output": "É"}, {"id": NASTY, "output": NASTY}
    )
    done = run_score("--predictions", predictions, "--references", references)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["id"] for row in rows] == ["7", NASTY]
    # The é is no word for ROUGE, but the same answer.
    assert [row["rougeL"] for row in rows] == [0.0, 1.0]
    assert [row["exact_match"] for row in rows] == [1.0, 1.0]


def test_byte_order_mark_crlf_and_missing_last_newline_are_read(tmp_path):
    predictions, references = tmp_path / "p", tmp_path / "r"
    predictions.write_bytes(
        b'\xef\xbb\xbf{"id": "a", "text": "x\xe2\x80\xa8y"}\r\n{"id":"b","text":"z"}'
    )
    references.write_bytes(b'{"id": "a", "output": "x y"}\n\n{"id": "b", "output": "z"}')
    result = score_files(predictions, references)
    assert [row["exact_match"] for row in result["rows"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([{"id": "a", "text": ""}], r"predictions: id 'b' of .*references missing"),
        (
            [{"id": "a", "text": ""}, {"id": "b", "text": ""}, {"id": "x", "text": ""}],
            r"predictions: id 'x' \(line 3\) not in .*references$",
        ),
        (
            [{"id": "x", "text": ""}],
            r"id 'x' \(line 1\) not in .*; ids 'a', 'b' of .* missing",
        ),
        (
            [{"id": "a", "text": ""}, {"id": "b", "text": ""}, {"id": "a", "text": ""}],
            r"predictions:3: id 'a' is already on line 1",
        ),
        ([{"text": ""}], r"predictions:1: no key 'id'; found text"),
        ([{"id": "a", "output": "x"}], r"predictions:1: no key 'text'; found id, output"),
        ([{"id": "a", "text": None}], r"predictions:1: text must be a string, found None"),
        ([{"id": 1.5, "text": ""}], r"predictions:1: id must be a string or an integer"),
        ([{"id": True, "text": ""}], r"predictions:1: id must be a string or an integer"),
    ],
)
def test_bad_predictions_are_refused_by_name(predictions, message, tmp_path):
    references = [{"id": "a", "output": "x"}, {"id": "b", "output": "y"}]
    with pytest.raises(DistillensError, match=message):
        score_files(
            write_lines(tmp_path / "predictions", *predictions),
            write_lines(tmp_path / "references", *references),
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b", "output": []}, "references:2: output is an empty list"),
        ({"id": "b", "output": ["x", 1]}, "references:2: output must be a text or a list"),
        ({"id": "b", "output": None}, "references:2: output must be a text or a list"),
        ({"id": "b"}, "references:2: no key 'output'; found id"),
        ({"id": "a", "output": "y"}, "references:2: id 'a' is already on line 1"),
    ],
)
def test_bad_references_are_refused_by_file_and_line(row, message, tmp_path):
    with pytest.raises(DistillensError, match=message):
        score_files(
            write_lines(tmp_path / "predictions", {"id": "a", "text": ""}),
            write_lines(tmp_path / "references", {"id": "a", "output": "x"}, row),
        )


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(files, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "text": "x"}\n{"id": "b" "text"}\n')
    for arguments, message in [
        (["--predictions", str(bad), "--references", files[1]], "bad.jsonl:2:12"),
        (["--predictions", str(tmp_path / "no"), "--references", files[1]], "No such file"),
        (["--predictions", *files], "required: --references"),
        (
            ["--predictions", files[0], "--references", files[1], "--scorer", "x"],
            "'x' is not known",
        ),
    ]:
        done = run_score(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_every_seed_of_a_sample_is_scored_on_its_own():
    samples = make_samples([["the answer", "no"], ["x", "x"]], scored=False)
    scorer = score_samples(samples)
    assert scorer.startswith("rouge-score")
    first, second = samples[0].scores["rougeL"]
    assert first == pytest.approx(100 * 2 * (1 * 2 / 5) / (1 + 2 / 5))
    assert second == 0.0
    assert samples[1].scores == {"rougeL": [0.0, 0.0], "exact_match": [0.0, 0.0]}


def test_percent_rounds_to_four_decimals():
    assert percent([1 / 3, 1 / 3]) == 33.3333


def test_many_ids_are_named_in_part():
    assert named(list("abcdefg")) == "ids 'a', 'b', 'c', 'd', 'e' and 2 more"
    assert named(["a"]) == "id 'a'"
