"""`eval-harness run`: generate answers with vLLM or transformers, score them, write results."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eval_harness.backends.table import BACKENDS
from eval_harness.protocols.protocol import PROTOCOLS, TRUNCATIONS
from eval_harness.scoring.rouge_words import without_words_note
from eval_harness.shared.program.flag_numbers import batch_size, count, limit, seeds
from eval_harness.shared.text.template_table import TEMPLATES

if TYPE_CHECKING:
    from eval_harness.generation.task import Settings
    from eval_harness.results.schema import Results


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="generate answers to benchmarks and score them",
        description="Generates answers with vLLM (or transformers), scores them, and writes "
        "results and samples in lm-eval's layout. Repeat the command to resume an interrupted run.",
    )
    parser.add_argument(
        "--model",
        "-m",
        default=next(iter(BACKENDS)),
        help="the backend: "
        + " or ".join(f"{name} ({entry.summary})" for name, entry in BACKENDS.items())
        + "; default: %(default)s",
    )
    parser.add_argument(
        "--model_args",
        "-a",
        default="",
        metavar="K=V,...",
        help="pretrained=DIR and, as needed, dtype, revision, tokenizer, peft, max_length, "
        "add_bos_token; with vllm any engine argument (tensor_parallel_size, ...); some need "
        "--trust_remote_code",
    )
    parser.add_argument(
        "--tasks", "-t", required=True, metavar="NAME,...", help="see eval-harness ls"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK=PATH",
        help="local rows of a task: a JSONL file, or a folder with valid.jsonl (may be repeated)",
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )
    parser.add_argument(
        "--output_path", "-o", required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--protocol",
        default="default",
        help=f"{', '.join(PROTOCOLS)}; see eval-harness ls",
    )
    parser.add_argument("--gen_kwargs", default="", metavar="K=V,...", help="temperature=0.7,...")
    parser.add_argument(
        "--seed", metavar="N,...", help="one answer per seed; default: the protocol's"
    )
    parser.add_argument("--batch_size", "-b", default="auto", help="rows in flight, or auto")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (hf only)")
    parser.add_argument(
        "--limit", "-L", metavar="N", help="first N rows, or their share if below 1"
    )
    parser.add_argument("--template", help=f"{', '.join(TEMPLATES)}, or a format string")
    parser.add_argument(
        "--apply_chat_template", action="store_true", help="same as --template chat"
    )
    parser.add_argument(
        "--truncation",
        metavar="RULE",
        help=f"{' or '.join(TRUNCATIONS)}; default: the protocol's",
    )
    parser.add_argument("--max_prompt_tokens", type=count, metavar="N", help="default: 256")
    parser.add_argument(
        "--log_samples",
        "-s",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write one row per sample, as compare and report need (default)",
    )
    parser.add_argument("--predict_only", "-x", action="store_true", help="generate, do not score")
    parser.add_argument(
        "--loglikelihood",
        action="store_true",
        help="also compute the references' NLL and perplexity",
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the model, and accept engine arguments that can run code "
        "(docs/security.md)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the evaluation and prints a table. Returns 0."""
    from eval_harness.generation.evaluate import run_evaluation

    results, path = run_evaluation(_settings(args))
    sys.stdout.write(_table(results))
    for line in _notes(results):
        print(line)
        print(f"eval-harness: {line}", file=sys.stderr)
    print(f"written to {path}", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> "Settings":
    from eval_harness.errors import DistillensError
    from eval_harness.generation.request import make_settings
    from eval_harness.shared.program.key_values import parse_key_values

    if args.apply_chat_template and args.template not in (None, "chat"):
        raise DistillensError("--apply_chat_template and --template: give only one of them")
    return make_settings(
        backend=args.model,
        model_args=parse_key_values(args.model_args, flag="--model_args"),
        tasks=args.tasks,
        output_path=Path(args.output_path),
        data=args.data,
        include_path=args.include_path,
        protocol=args.protocol,
        gen_kwargs=parse_key_values(args.gen_kwargs, flag="--gen_kwargs"),
        seeds=seeds(args.seed),
        template="chat" if args.apply_chat_template else args.template,
        truncation=args.truncation,
        max_prompt_tokens=args.max_prompt_tokens,
        batch_size=batch_size(args.batch_size),
        device=args.device,
        limit=limit(args.limit),
        log_samples=args.log_samples,
        predict_only=args.predict_only,
        loglikelihood=args.loglikelihood,
        trust_remote_code=args.trust_remote_code,
        config={
            "model_args": args.model_args,
            "batch_size": args.batch_size,
            "limit": args.limit,
        },
    )


def _table(results: "Results") -> str:
    lines = ["task  rows  metric  value  stderr"]
    for task in results.tasks.values():
        for name, value in task.metrics.items():
            metric, _, _ = name.partition(",")
            error = task.metrics.get(f"{metric}_stderr,none")
            # Metrics have a standard error; the other values describe the answers.
            if error is None or metric.endswith("_stderr"):
                continue
            lines.append(
                f"{task.task}  {task.num_effective}  {metric}  {_number(value)}  {_number(error)}"
            )
    cells = [line.split("  ") for line in lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in cells
    )


def _notes(results: "Results") -> list[str]:
    """What a reader of the table must know about its numbers."""
    notes = []
    for task in results.tasks.values():
        num_references = task.metrics.get("num_references_without_words,none", 0)
        note = without_words_note(num_references, task.num_effective)
        if note is not None:
            notes.append(f"{task.task}: {note}")
    return notes


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
