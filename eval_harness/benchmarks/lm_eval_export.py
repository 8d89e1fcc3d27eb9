"""Writes benchmarks as task files of lm-evaluation-harness.

A task `distillens_<name>` has our prompts, stop strings and scores, so lm-eval reports the same
numbers. Both begin a prompt as the tokenizer begins a text; to turn that off, as the protocol
`minillm` does, give lm-eval --model_args add_bos_token=False. lm-eval differs in five ways: it does
not cut prompts to 256 tokens, samples with one seed, reads <|endoftext|> in a row's text as the
special token, lets a chat template read the clock, and uses our own stops also in rows whose
reference has them (see `cut_answer`).
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval_harness.benchmarks import Benchmark, load_rows
from eval_harness.benchmarks.lm_eval_folder import (
    FUNCTIONS,
    MARK,
    check_folder,
    module_file,
    rows_file,
    task_file,
)
from eval_harness.errors import DistillensError
from eval_harness.protocols.generation_kwargs import generation_kwargs
from eval_harness.protocols.protocol import Protocol
from eval_harness.scoring.checked_metrics import checked_fields
from eval_harness.shared.files.atomic import check_writable, write_text
from eval_harness.shared.files.jsonl import write_jsonl
from eval_harness.shared.text.prompt_starts import prompt_starts
from eval_harness.shared.text.template_table import template_identity

_MODULE = '''{mark}
"""Rows, prompts and scores of the tasks beside this file, by eval_harness's own functions."""

from pathlib import Path

from eval_harness.benchmarks.row_fields import read_field
from eval_harness.scoring.score import score_rows
from eval_harness.shared.text.answers import cut_answer, read_newlines, without_empty
from eval_harness.shared.text.templates import render_prompt

TEMPLATES = {templates!r}
FIELDS = {fields!r}
METRICS = {metrics!r}
UNTIL = {until!r}
STARTS = {starts!r}
NEWLINES = {newlines!r}
DATA = {data!r}


def _rows(task):
    import datasets

    # Beside this file, wherever the folder is now.
    file = DATA[task] if "://" in DATA[task] else str(Path(__file__).parent / DATA[task])
    return datasets.load_dataset("json", data_files={{"test": file}})


def _value(doc, task, name):
    value = read_field(doc, FIELDS[task].get(name, name))
    return read_newlines(value, NEWLINES[task]) if isinstance(value, str) else value


def _prompt(doc, task):
    instruction = _value(doc, task, "instruction")
    if instruction is None:
        return _value(doc, task, "prompt")
    text = _value(doc, task, "input") or ""
    if TEMPLATES[task] == "chat":
        # lm-eval puts the chat template around it: --apply_chat_template.
        return f"{{instruction}}\\n{{text}}" if text else instruction
    return render_prompt(TEMPLATES[task], instruction, text)


def _references(doc, task):
    output = _value(doc, task, "output")
    texts = [output] if isinstance(output, str) else without_empty(output)
    return [read_newlines(text, NEWLINES[task]) for text in texts]


def _results(doc, results, task):
    references = _references(doc, task)
    answer = cut_answer(
        results[0],
        until=UNTIL[task],
        starts=STARTS[task],
        newline=NEWLINES[task],
        references=references,
    )
    scored = score_rows([answer], [references], metrics=METRICS[task])
    return {{name: 100 * values[0] for name, values in scored.items()}}
'''
_TASK_FUNCTIONS = """

def rows_{name}(**_):
    return _rows({task!r})


def prompt_{name}(doc):
    return _prompt(doc, {task!r})


def target_{name}(doc):
    return _references(doc, {task!r})[0]


def results_{name}(doc, results):
    return _results(doc, results, {task!r})
"""


def export_tasks(
    benchmarks: Sequence[Benchmark], protocol: Protocol, folder: str | os.PathLike[str]
) -> list[Path]:
    """Writes one YAML file for each benchmark, their functions, and local rows.

    Rows on the Hub stay there. Local rows are copied into the folder, which may be moved.

    Args:
        benchmarks: with local paths where there are local files.
        protocol: length and temperature of the answers, and the template.
        folder: made if missing.
    Returns:
        The YAML files, for --include_path FOLDER.
    Raises:
        DistillensError: the folder cannot be written or holds what is not this export's, local
            rows are malformed or conversations, or a template is registered in this process only.
    """
    target = Path(folder).resolve()
    for benchmark in benchmarks:
        template = benchmark.template or protocol.template
        if template_identity(template) != template:
            raise DistillensError(
                f"{benchmark.task}: lm-eval does not know the template {template!r}, which was "
                "registered in this process; give its format string instead"
            )
        if not can_be_exported(benchmark):
            raise DistillensError(
                f"{benchmark.task}: a task of lm-eval compares every row with a reference, which "
                "this one does not; evaluate it with eval-harness run"
            )
    check_folder(target, benchmarks)
    # All are read before any file is replaced.
    rows = {item.task: _rows(item) for item in benchmarks if item.path is not None}
    check_writable(target)
    if rows:
        check_writable(target / "data")
    names = _identifiers([benchmark.task for benchmark in benchmarks])
    module = _MODULE.format(
        mark=MARK,
        templates={item.task: item.template or protocol.template for item in benchmarks},
        fields={item.task: {} if item.path else item.fields for item in benchmarks},
        metrics={item.task: item.metrics for item in benchmarks},
        until={item.task: _of_benchmark(item, protocol).until for item in benchmarks},
        starts={item.task: _starts(item, protocol) for item in benchmarks},
        newlines={item.task: item.newline or protocol.newline for item in benchmarks},
        data={
            item.task: f"data/{item.task}.jsonl" if item.path else str(item.hub)
            for item in benchmarks
        },
    )
    for task, name in names.items():
        module += _TASK_FUNCTIONS.format(task=task, name=name)
    write_text(module_file(target), module)
    written = []
    for benchmark in benchmarks:
        file = task_file(target, benchmark.task)
        write_text(file, _yaml(benchmark, names[benchmark.task], protocol))
        written.append(file)
    # After the task files, which say that these are ours should this end halfway.
    for task, content in rows.items():
        write_jsonl(rows_file(target, task), content)
    return written


def can_be_exported(benchmark: Benchmark) -> bool:
    """Whether all its rows are compared with references, as a task of lm-eval compares them."""
    return benchmark.references == "all" and not checked_fields(benchmark.metrics)


def lm_eval_command(
    benchmarks: Sequence[Benchmark], protocol: Protocol, folder: str | os.PathLike[str]
) -> str:
    """The command line that runs the exported tasks, with MODEL in the model's place.

    Raises:
        DistillensError: tasks of `chat` and of another template, which lm-eval asks in two runs.
    """
    chat = [(item.template or protocol.template) == "chat" for item in benchmarks]
    if any(chat) and not all(chat):
        raise DistillensError(
            "some of the tasks are asked with the template chat and others are not, and lm-eval's "
            "--apply_chat_template is for all; export them into two folders"
        )
    bos = protocol.add_bos_token
    model_args = "pretrained=MODEL" + (f",add_bos_token={bos}" if isinstance(bos, bool) else "")
    tasks = [f"distillens_{item.task}" for item in benchmarks]
    words = ["lm_eval", "run", "--model", "hf", "--model_args", model_args, "--tasks", *tasks]
    words += ["--include_path", str(Path(folder)), "--output_path", "OUT", "--log_samples"]
    words += ["--apply_chat_template"] if all(chat) else []
    return shlex.join(words)


def _starts(benchmark: Benchmark, protocol: Protocol) -> tuple[str, ...]:
    return prompt_starts(_of_benchmark(benchmark, protocol).template)


def _of_benchmark(benchmark: Benchmark, protocol: Protocol) -> Protocol:
    return replace(
        protocol,
        template=benchmark.template or protocol.template,
        until=benchmark.until if protocol.until is None else protocol.until,
    )


def _identifiers(tasks: Sequence[str]) -> dict[str, str]:
    """Each task as a part of functions' names; two that would be alike get a number."""
    found: dict[str, str] = {}
    for task in tasks:
        plain = "".join(character if character.isalnum() else "_" for character in task)
        name, number = plain, 1
        while name in found.values():
            number += 1
            name = f"{plain}_{number}"
        found[task] = name
    return found


def _rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    rows = load_rows(benchmark)
    talk = next((row for row in rows if row.conversation is not None), None)
    if talk is not None:
        raise DistillensError(
            f"{benchmark.task}: row {talk.row_id!r} is a conversation, and a task of lm-eval asks "
            "with one text; evaluate it with eval-harness run"
        )
    # One shape for every row: Arrow, under lm-eval's reader, takes no mix of strings and lists.
    return [
        {
            "id": row.row_id,
            "instruction": None if row.prompt is not None else row.instruction,
            "input": row.input,
            "prompt": row.prompt,
            "output": list(row.references),
        }
        for row in rows
    ]


def _yaml(benchmark: Benchmark, name: str, protocol: Protocol) -> str:
    import yaml

    task = {
        "task": f"distillens_{benchmark.task}",
        "dataset_path": "json",
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": generation_kwargs(_of_benchmark(benchmark, protocol)),
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in benchmark.metrics
        ],
        "metadata": {"version": benchmark.version},
    }
    # The tag is lm-eval's own; PyYAML cannot write it without a class for it.
    functions = "".join(
        f"{key}: !function {FUNCTIONS}.{function}_{name}\n"
        for key, function in [
            ("custom_dataset", "rows"),
            ("doc_to_text", "prompt"),
            ("doc_to_target", "target"),
            ("process_results", "results"),
        ]
    )
    return f"{MARK}\n{yaml.safe_dump(task, sort_keys=False, width=100)}{functions}"
