"""Answers in the files of outside judges: AlpacaEval's, FastChat's (MT-Bench) and IFEval's.

A judge knows one answer of a model to a question, so with several seeds each seed is a model of its
own, `<model>-seed<N>`.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.benchmarks.definition import Benchmark
from eval_harness.benchmarks.rows import Row, read_row
from eval_harness.results.schema import Sample
from eval_harness.scoring.ifeval import FIELDS
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import write_bytes, write_json
from eval_harness.shared.files.jsonl import encode_row


@dataclass(frozen=True)
class Answers:
    """What a judge is given.

    Attributes:
        rows: N questions.
        models: name -> its N answers, as they would be scored.
        seconds: when they were asked for, since the epoch.
    """

    rows: Sequence[Row]
    models: dict[str, list[str]]
    seconds: float


def write_judge_files(
    benchmark: Benchmark, samples: Sequence[Sample], folder: Path, *, model: str, seconds: float
) -> str:
    """Writes the files of the benchmark's judge.

    Args:
        benchmark: with a `judge_format`.
        samples: N, all with the same seeds.
        folder: made if missing.
        model: a name that can be a file's.
        seconds: of the run, since the epoch.
    Returns:
        The command that judges them, for people.
    Raises:
        RunFailure: a file cannot be written.
    """
    seeds = samples[0].seeds
    models = {
        model if len(seeds) == 1 else f"{model}-seed{seed}": [
            sample.filtered_resps[place] for sample in samples
        ]
        for place, seed in enumerate(seeds)
    }
    rows = [
        read_row(benchmark, sample.doc, sample.doc_id, f"{benchmark.task}: row {sample.row_id!r}")
        for sample in samples
    ]
    return _WRITERS[str(benchmark.judge_format)](folder, Answers(rows, models, seconds))


def _alpaca_eval(folder: Path, answers: Answers) -> str:
    """`outputs.json`, or one for each seed."""
    files = []
    for model, texts in answers.models.items():
        files.append(folder / f"outputs{_suffix(model, answers)}.json")
        content = [
            {
                "dataset": row.doc.get("dataset"),
                "instruction": _question(row),
                "output": text,
                "generator": model,
            }
            for row, text in zip(answers.rows, texts, strict=True)
        ]
        write_json(files[-1], content)
    return "; ".join(f"alpaca_eval --model_outputs {_quoted(file)}" for file in files)


def _mt_bench(folder: Path, answers: Answers) -> str:
    """`model_answer/<model>.jsonl`, and the questions with their first turns only.

    FastChat's judge asks about a second turn where a question has two.
    """
    ids = [int(row.row_id) if row.row_id.isdecimal() else row.row_id for row in answers.rows]
    for model, texts in answers.models.items():
        content: list[dict[str, Any]] = [
            {
                "question_id": question_id,
                "answer_id": digest([model, row.row_id, text]),
                "model_id": model,
                "choices": [{"index": 0, "turns": [text]}],
                "tstamp": answers.seconds,
            }
            for question_id, row, text in zip(ids, answers.rows, texts, strict=True)
        ]
        _write_lines(folder / "model_answer" / f"{model}.jsonl", content)
    questions = [
        {
            "question_id": question_id,
            "category": row.doc.get("category", "general"),
            "turns": [_question(row)],
            **({"reference": [row.references[0]]} if row.references else {}),
        }
        for question_id, row in zip(ids, answers.rows, strict=True)
    ]
    _write_lines(folder / "question.jsonl", questions)
    models = " ".join(map(shlex.quote, answers.models))
    return (
        f"in FastChat's fastchat/llm_judge: cp -r {_quoted(folder)} data/mt_bench_first && "
        "cp -r data/mt_bench/reference_answer data/mt_bench_first && python gen_judgment.py "
        f"--bench-name mt_bench_first --model-list {models}"
    )


def _ifeval(folder: Path, answers: Answers) -> str:
    """`input_response_data.jsonl`, or one for each seed, and the rows that were asked."""
    asked = folder / "input_data.jsonl"
    _write_lines(asked, [_ifeval_row(row) for row in answers.rows])
    commands = []
    for model, texts in answers.models.items():
        suffix = _suffix(model, answers)
        file = folder / f"input_response_data{suffix}.jsonl"
        content = [
            {"prompt": _ifeval_row(row)["prompt"], "response": text}
            for row, text in zip(answers.rows, texts, strict=True)
        ]
        _write_lines(file, content)
        commands.append(
            f"mkdir -p {_quoted(folder / f'scores{suffix}')} && python -m "
            f"instruction_following_eval.evaluation_main --input_data={_quoted(asked)} "
            f"--input_response_data={_quoted(file)} "
            f"--output_dir={_quoted(folder / f'scores{suffix}')}"
        )
    return f"in google-research: {'; '.join(commands)}"


def _ifeval_row(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"key": row.row_id, "prompt": _question(row)}
    found |= {name: row.doc.get(name) for name in FIELDS if name in row.doc}
    # Google's checker takes a null for a value, where lm-eval's leaves it out.
    found["kwargs"] = [
        {name: value for name, value in given.items() if value is not None}
        for given in found.get("kwargs", [])
    ]
    return found


def _question(row: Row) -> str:
    if row.conversation is not None:
        return row.conversation.messages[-1].content
    if row.prompt is not None:
        return row.prompt
    return "\n".join(filter(None, (row.instruction, row.input)))


def _suffix(model: str, answers: Answers) -> str:
    return "" if len(answers.models) == 1 else f"-{model.rpartition('-')[2]}"


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_bytes(path, "".join(f"{encode_row(row)}\n" for row in rows).encode("utf-8"))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.resolve()))


_WRITERS: dict[str, Callable[[Path, Answers], str]] = {
    "alpaca_eval": _alpaca_eval,
    "mt_bench": _mt_bench,
    "ifeval": _ifeval,
}
