"""`eval-harness run`: generate answers with vLLM or transformers, score them, write results."""

import argparse
import sys
from pathlib import Path
from typing import Any

from eval_harness.scoring.rouge_words import without_words_note
from eval_harness.shared.program.flag_numbers import batch_size, count, limit, seeds


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="generate answers to benchmarks and score them",
        description="Generates answers with vLLM (or transformers), scores them, and writes "
        "results and samples in lm-eval's layout. An interrupted run goes on where it stopped.",
    )
    parser.add_argument("--model", "-m", default="vllm", help="vllm (default) or hf")
    parser.add_argument(
        "--model_args",
        "-a",
        default="",
        metavar="K=V,...",
        help="pretrained=DIR and, as needed, dtype, revision, tokenizer, peft, max_length, "
        "add_bos_token; with "
        "vllm any engine argument (tensor_parallel_size, ...); some need --trust_remote_code",
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
        "--output_path", "-o", required=True, metavar="DIR", help="where results go"
    )
    parser.add_argument(
        "--protocol",
        default="default",
        help="default (sampled), minillm (as the reference) or greedy",
    )
    parser.add_argument("--gen_kwargs", default="", metavar="K=V,...", help="temperature=0.7,...")
    parser.add_argument(
        "--seed", metavar="N,...", help="one answer for each; default: the protocol's"
    )
    parser.add_argument("--batch_size", "-b", default="auto", help="rows in flight, or auto")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (hf only)")
    parser.add_argument(
        "--limit", "-L", metavar="N", help="first N rows, or their share if below 1"
    )
    parser.add_argument("--template", help="alpaca, question, qwen, chat, or a format string")
    parser.add_argument(
        "--apply_chat_template", action="store_true", help="the tokenizer's own: --template chat"
    )
    parser.add_argument("--truncation", help="template (cut the task's text) or reference")
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
        "--loglikelihood", action="store_true", help="also the references' NLL and perplexity"
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the model, and take engine arguments that can run some "
        "(docs/security.md)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the evaluation and prints a table. Returns 0."""
    from eval_harness.generation.evaluate import evaluate

    results, path = evaluate(_settings(args))
    sys.stdout.write(_table(results))
    for line in _notes(results):
        print(line)
        print(f"eval-harness: {line}", file=sys.stderr)
    print(f"written to {path}", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from eval_harness.benchmarks import find_benchmarks, select_benchmarks
    from eval_harness.errors import DistillensError
    from eval_harness.generation.task import Settings
    from eval_harness.protocols.protocol import make_protocol
    from eval_harness.shared.program.key_values import parse_key_values
    from eval_harness.shared.text.template_table import check_template

    if args.apply_chat_template and args.template not in (None, "chat"):
        raise DistillensError("--apply_chat_template and --template exclude each other; give one")
    template = "chat" if args.apply_chat_template else args.template
    if template is not None:
        check_template(template)
    if args.predict_only and not args.log_samples:
        raise DistillensError(
            "--predict_only --no-log_samples would keep nothing; drop one of them"
        )
    gen_kwargs = parse_key_values(args.gen_kwargs, flag="--gen_kwargs")
    protocol = make_protocol(
        args.protocol,
        gen_kwargs=gen_kwargs,
        seeds=seeds(args.seed),
        template=template,
        truncation=args.truncation,
        max_prompt_tokens=args.max_prompt_tokens,
    )
    model_args = parse_key_values(args.model_args, flag="--model_args")
    rows_in_flight = batch_size(args.batch_size)
    if rows_in_flight is not None:
        model_args["batch_size"] = rows_in_flight
    if args.device is not None:
        model_args["device"] = args.device
    benchmarks = find_benchmarks(args.include_path)
    return Settings(
        model=args.model,
        model_args=model_args,
        benchmarks=select_benchmarks(args.tasks, benchmarks, args.data),
        protocol=protocol,
        output_path=Path(args.output_path),
        template=template,
        limit=limit(args.limit),
        log_samples=args.log_samples,
        predict_only=args.predict_only,
        loglikelihood=args.loglikelihood,
        trust_remote_code=args.trust_remote_code,
        config={
            "model": args.model,
            "model_args": args.model_args,
            "batch_size": args.batch_size,
            "device": args.device,
            "limit": args.limit,
            "protocol": args.protocol,
            "gen_kwargs": gen_kwargs,
            "seeds": list(protocol.seeds),
        },
    )


def _table(results: Any) -> str:
    lines = ["task  rows  metric  value  stderr"]
    for task in results.tasks.values():
        for name, value in task.metrics.items():
            metric, _, _ = name.partition(",")
            error = task.metrics.get(f"{metric}_stderr,none")
            # The metrics proper are those with an error; the rest describes the answers.
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


def _notes(results: Any) -> list[str]:
    """What a reader of the table must know of its numbers."""
    notes = []
    for task in results.tasks.values():
        num_references = task.metrics.get("num_references_without_words,none", 0)
        note = without_words_note(num_references, task.num_effective)
        if note is not None:
            notes.append(f"{task.task}: {note}")
    return notes


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
