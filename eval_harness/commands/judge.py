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
    from eval_harness.judging.request import judge
    from eval_harness.shared.files.atomic import encode_json
    from eval_harness.shared.program.flag_numbers import limit
    from eval_harness.shared.program.key_values import read_key_values

    gen_kwargs: dict[str, Any] = {}
    for parts in args.gen_kwargs:
        gen_kwargs |= read_key_values(parts, flag="--gen_kwargs")
    tasks = None if args.tasks is None else [n for n in ",".join(args.tasks).split(",") if n]
    judgement = judge(
        args.a,
        args.b,
        base_url=args.base_url,
        judge_model=args.judge_model,
        output_path=args.output_path,
        api_key_env=args.api_key_env,
        prompt=args.prompt,
        gen_kwargs=gen_kwargs,
        tasks=tasks,
        limit=limit(args.limit),
        all_seeds=args.all_seeds,
        max_concurrent=args.max_concurrent,
        timeout_s=args.timeout_s,
        allow_missing=args.allow_missing,
    )
    if args.json:
        sys.stdout.write(encode_json(judgement.to_json(), where="judgement"))
        sys.stdout.flush()
    else:
        print_names(str(judgement))
    print(f"written to {judgement.path}", file=sys.stderr)
    return 0
