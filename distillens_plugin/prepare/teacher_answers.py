"""Sequence-level distillation: the teacher answers the training prompts, the student learns those.

`distillens generate RECIPE --output FILE` lets eval_harness generate with vLLM or transformers and
writes rows that `datasets.train.path` reads. An interrupted run resumes where it stopped.

Source: Kim and Rush 2016, arXiv 1606.07947.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillens_plugin.data.generated_rows import MARK
from distillens_plugin.data.rows import RawRow, read_rows
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.jsonl import write_jsonl
from eval_harness.shared.files.lock import FolderLock
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, check_model_args, given_remote_code
from eval_harness.shared.text.answer_turns import answer_turns
from eval_harness.shared.text.answers import read_newlines
from eval_harness.shared.text.messages import Conversation

_TASK = "training_prompts"


@dataclass(frozen=True)
class Generation:
    """How the teacher answers.

    Attributes:
        backend: vllm, hf or server.
        model_args: for the backend, besides what the recipe gives for the teacher.
        gen_kwargs: temperature, max_gen_toks, ...; greedy by default.
        seeds: one answer to each prompt for each; greedy has one.
        keep_unfinished: keep answers that hit the token limit without an end. By default they are
            left out, since they teach the student to stop in mid-sentence.
        trusted: let arguments and models run code (--trust-recipe).
    """

    backend: str = "vllm"
    model_args: dict[str, Any] | None = None
    gen_kwargs: dict[str, Any] | None = None
    seeds: Sequence[int] | None = None
    keep_unfinished: bool = False
    trusted: bool = False


def generate(recipe: Recipe, output: Path, how: Generation) -> str:
    """Writes the teacher's answers to the recipe's training prompts.

    Beside the file a folder `<name>.answers` keeps prompts, answers and settings, so that an
    interrupted run resumes.

    Args:
        recipe: with a teacher_model; its datasets.train gives the prompts, template and lengths.
        output: a .jsonl file; replaced if it is there.
    Returns:
        One line for people: what was written and what was left out.
    Raises:
        DistillensError: no teacher, unreadable data, settings that the backend refuses, or another
            process is writing this file.
        RunFailure: generation or writing failed, or no answer was left.
    """
    teacher = recipe.models.teacher_model
    if teacher is None:
        raise DistillensError(
            f"{recipe.where('models')}: found no teacher_model to answer the prompts; name the "
            "recipe with a teacher that the SeqKD run starts from"
        )
    if output.suffix != ".jsonl":
        raise DistillensError(f"--output {output}: expected a name that ends in .jsonl")
    _trusted(recipe, how)
    if recipe.datasets.train.streaming:
        raise DistillensError(
            f"{recipe.where('datasets.train.streaming')}: the prompts are read before the first "
            "answer; set it to false, and limit the rows with num_rows"
        )
    data, where = recipe.datasets.train, recipe.where("datasets.train")
    rows = list(read_rows(data, where=where))
    for row in rows:
        _check_answers(row, data.supervise, f"{where}: {data.path}: row {row.id!r}")
    folder = output.with_suffix(".answers")
    with FolderLock(folder, where="--output", remedy="wait for it, or name another file"):
        samples = _answers(recipe, rows, folder, how)
        name = teacher.name_or_path or ""
        kept = list(_training_rows(samples, rows, name, how, newline=data.newline))
        if not kept:
            raise RunFailure(
                f"{output}: none of {len(samples)} prompts has a finished answer; raise "
                "--gen_kwargs max_gen_toks or pass --keep_unfinished"
            )
        write_jsonl(output, kept)
    num_answers = sum(len(sample.filtered_resps) for sample in samples)
    return (
        f"{output}: {len(kept)} of {num_answers} answers to {len(rows)} prompts; the others are "
        "empty or hit the token limit"
    )


def _answers(recipe: Recipe, rows: Sequence[RawRow], folder: Path, how: Generation) -> list[Any]:
    from eval_harness import Benchmark, Settings, make_protocol, run_evaluation

    data = recipe.datasets.train
    prompts = folder / "prompts.jsonl"
    write_jsonl(prompts, (_prompt_row(row) for row in rows))
    temperature = (how.gen_kwargs or {}).get("temperature", 0)
    protocol = make_protocol(
        "greedy" if temperature == 0 else "default",
        gen_kwargs=how.gen_kwargs,
        seeds=how.seeds if how.seeds is not None else (0,),
        max_new_tokens=data.max_length - data.max_prompt_length,
        template=data.template,
        add_bos_token=data.add_bos_token,
        max_prompt_tokens=data.max_prompt_length,
    )
    settings = Settings(
        model=how.backend,
        model_args=_model_args(recipe, how),
        benchmarks=[Benchmark(_TASK, prompts, path=prompts.absolute(), newline=data.newline)],
        protocol=protocol,
        output_path=folder,
        template=data.template,
        predict_only=True,
        trust_remote_code=_trusted(recipe, how),
        config={"recipe": recipe.path},
    )
    results, _ = run_evaluation(settings)
    return list(results.tasks[_TASK].samples)


def _trusted(recipe: Recipe, how: Generation) -> bool:
    """Whether the backend may run code; refuses here what it would refuse under another flag."""
    teacher = recipe.models.teacher_model
    assert teacher is not None  # generate() has looked
    model_args = how.model_args or {}
    typed = given_remote_code(model_args, "--model_args")
    trusted = bool(how.trusted or teacher.trust_remote_code) if typed is None else typed
    check_model_args(
        how.backend, model_args, trusted=trusted, where="--model_args", flag=RECIPE_FLAG
    )
    return trusted


def _model_args(recipe: Recipe, how: Generation) -> dict[str, Any]:
    teacher = recipe.models.teacher_model
    assert teacher is not None  # generate() has looked
    given = {
        "pretrained": teacher.name_or_path,
        "tokenizer": teacher.tokenizer,
        "revision": teacher.revision,
        # A server was started with a type of its own.
        "dtype": None if how.backend == "server" else teacher.dtype,
        "peft": teacher.adapter,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return {**chosen, **(how.model_args or {})}


def _prompt_row(row: RawRow) -> dict[str, Any]:
    references = row.references or [""]
    if row.conversation is not None:
        question = _question(row.conversation)
        tools = {"tools": list(question.tools)} if question.tools else {}
        return {"id": row.id, "messages": question.to_template(), **tools, "output": references}
    task = {"prompt": row.prompt} if row.instruction is None else {"instruction": row.instruction}
    return {"id": row.id, **task, "input": row.input, "output": references}


def _question(conversation: Conversation) -> Conversation:
    """What the teacher answers: the last question, with all that was said before it."""
    turn = conversation.last_answer()
    if turn is not None:
        return conversation.before(turn)
    # Empty turns of the assistant may follow.
    asked = [i for i, message in enumerate(conversation.messages) if message.role != "assistant"]
    return conversation.before(max(asked, default=-1) + 1)


def _check_answers(row: RawRow, supervise: str, place: str) -> None:
    """Refuses a conversation of which the student would learn more than the teacher's answer."""
    if row.conversation is None:
        return
    if all(m.role not in ("user", "tool") for m in _question(row.conversation).messages):
        raise DistillensError(f"{place}: nothing is asked in it; leave such rows out")
    turns = answer_turns(row.conversation, "all_turns")
    if len(turns) > 1 and supervise != "last_turn":
        raise DistillensError(
            f"{place} has {len(turns)} answers, and the teacher gives the last one, so with "
            f"supervise: {supervise} the student would learn the others from the data; set "
            "datasets.train.supervise: last_turn"
        )
    if turns and row.conversation.messages[turns[-1]].tool_calls:
        raise DistillensError(
            f"{place}: its last answer calls tools, but a teacher's answer is taken as text; leave "
            "such rows out"
        )


def _training_rows(
    samples: Iterable[Any],
    rows: Sequence[RawRow],
    teacher: str,
    how: Generation,
    *,
    newline: str | None,
) -> Iterable[dict[str, Any]]:
    for sample, row in zip(samples, rows, strict=True):
        task = _prompt_row(row)
        several = len(sample.seeds) > 1
        for raw, text, reason, seed in zip(
            sample.resps, sample.filtered_resps, sample.finish_reason, sample.seeds, strict=True
        ):
            # An answer that was cut where the teacher starts another prompt is complete.
            unfinished = reason == "length" and read_newlines(raw, newline).strip() == text
            if not text or (unfinished and not how.keep_unfinished):
                continue
            row_id = f"{row.id} seed {seed}" if several else row.id
            yield {**task, "id": row_id, "output": text, MARK: teacher}
