"""`eval-harness judge`: a model behind an endpoint says which of two systems answers better."""

import argparse
import math
import sys
from typing import Any

from eval_harness.commands.compare import print_names
from eval_harness.shared.program.flag_numbers import count


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "judge",
        help="let a model behind an endpoint prefer one of two systems",
        description="Shows each pair of answers to a judge, in both orders, and prints wins, "
        "losses and ties with an interval, and how far the order and the length of the answers "
        "decided. Repeat the command to resume an interrupted one.",
    )
    parser.add_argument("a", metavar="A", help="results folder or file of the first system")
    parser.add_argument("b", metavar="B", help="the same of the second")
    parser.add_argument(
        "--base_url",
        required=True,
        metavar="URL",
        help="of an OpenAI-compatible endpoint, such as http://localhost:8000/v1",
    )
    parser.add_argument(
        "--judge_model", required=True, metavar="NAME", help="the judge's name at the endpoint"
    )
    parser.add_argument(
        "--output_path",
        "-o",
        required=True,
        metavar="DIR",
        help="folder for the verdicts and the result",
    )
    parser.add_argument(
        "--api_key_env",
        metavar="VARIABLE",
        help="environment variable with the API key; default: OPENAI_API_KEY if it is set",
    )
    parser.add_argument(
        "--prompt",
        default="pair",
        metavar="NAME",
        help="pair (default), reference (shows the judge the reference), or a text file with "
        "{question}, {answer_a}, {answer_b} and perhaps {reference}, which asks for [[A]], [[B]] "
        "or [[C]]",
    )
    parser.add_argument(
        "--gen_kwargs",
        nargs="+",
        action="append",
        default=[],
        metavar="K=V",
        help="sent with each request, beside temperature=0 max_tokens=1024; null leaves one out",
    )
    parser.add_argument(
        "--tasks",
        "-t",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="of the tasks that both have; default: all",
    )
    parser.add_argument(
        "--limit", "-L", metavar="N", help="first N rows, or their share if below 1"
    )
    parser.add_argument(
        "--all_seeds", action="store_true", help="judge every answer, not only the first of a row"
    )
    parser.add_argument(
        "--max_concurrent", type=count, default=16, metavar="N", help="requests at once (16)"
    )
    parser.add_argument(
        "--timeout_s",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="longest wait for one verdict, all tries together (300)",
    )
    parser.add_argument(
        "--allow_missing", action="store_true", help="leave out pairs whose requests fail"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("expected seconds, above 0 and at most 86400")
    return value


def run(args: argparse.Namespace) -> int:
    """Judges, and prints a table. Returns 0."""
    from pathlib import Path

    from eval_harness.comparison.systems import load_systems
    from eval_harness.judging.judge import Judge, request_settings
    from eval_harness.judging.pairs import chosen_tasks, make_pairs
    from eval_harness.judging.prompt import read_prompt
    from eval_harness.judging.run import judge_pairs
    from eval_harness.judging.table import judgement_lines
    from eval_harness.shared.endpoint.openai_compatible import checked_base_url, key_headers
    from eval_harness.shared.files.atomic import encode_json
    from eval_harness.shared.program.flag_numbers import limit
    from eval_harness.shared.program.key_values import read_key_values

    base_url = checked_base_url(args.base_url, flag="--base_url")
    gen_kwargs: dict[str, Any] = {}
    for parts in args.gen_kwargs:
        gen_kwargs |= read_key_values(parts, flag="--gen_kwargs")
    judge = Judge(
        args.judge_model,
        base_url,
        args.timeout_s,
        key_headers(base_url, variable=args.api_key_env, flag="--api_key_env"),
        request_settings(gen_kwargs),
    )
    prompt = read_prompt(args.prompt)
    num_rows = limit(args.limit)
    a, b = load_systems([args.a, args.b], metrics=None)
    names = None if args.tasks is None else [n for n in ",".join(args.tasks).split(",") if n]
    pairs = {
        task: make_pairs(a, b, task=task, prompt=prompt, limit=num_rows, all_seeds=args.all_seeds)
        for task in chosen_tasks(a, names)
    }
    judgement, path = judge_pairs(
        (a, b),
        pairs,
        judge=judge,
        prompt=prompt,
        output_path=Path(args.output_path),
        max_concurrent=args.max_concurrent,
        allow_missing=args.allow_missing,
        config={
            "tasks": list(pairs),
            "limit": num_rows,
            "all_seeds": args.all_seeds,
            "prompt": args.prompt,
            "allow_missing": args.allow_missing,
        },
    )
    if args.json:
        sys.stdout.write(encode_json(judgement.to_json(), where="judgement"))
        sys.stdout.flush()
    else:
        print_names("\n".join(judgement_lines(judgement)))
    print(f"written to {path}", file=sys.stderr)
    return 0
