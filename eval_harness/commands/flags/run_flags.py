"""The flags of `eval-harness run`; one that is not given is absent, for --config to fill."""

import argparse
from typing import Any

from eval_harness.backends.table import BACKENDS
from eval_harness.commands.flags.refused import add_refused_flags
from eval_harness.commands.flags.rouge_tokenizer import DEFAULT as DEFAULT_TOKENIZER
from eval_harness.commands.flags.rouge_tokenizer import add_tokenizer_flag
from eval_harness.protocols.protocol import PROTOCOLS, TRUNCATIONS
from eval_harness.shared.program.flag_numbers import count, whole
from eval_harness.shared.text.template_table import TEMPLATES

# What a flag is where neither the command line nor --config gives it.
DEFAULTS: dict[str, Any] = {
    "model": next(iter(BACKENDS)),
    "model_args": [],
    "systems": [],
    "tasks": None,
    "data": [],
    "include_path": None,
    "output_path": None,
    "protocol": "default",
    "gen_kwargs": [],
    "seed": None,
    "batch_size": "auto",
    "device": None,
    "limit": None,
    "samples": None,
    "num_fewshot": None,
    "fewshot_as_multiturn": None,
    "template": None,
    "apply_chat_template": False,
    "system_instruction": None,
    "truncation": None,
    "max_prompt_tokens": None,
    "log_samples": True,
    "predict_only": False,
    "rouge_tokenizer": DEFAULT_TOKENIZER,
    "loglikelihood": False,
    "write_out": False,
    "show_config": False,
    "check_integrity": False,
    "wandb_args": [],
    "wandb_config_args": [],
    "hf_hub_log_args": [],
    "trust_remote_code": False,
}


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds all flags to the parser of `run`."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--config", "-C", metavar="FILE", help="YAML of these flags; the command line wins"
    )
    _add_model(parser)
    _add_rows(parser)
    _add_prompts(parser)
    _add_answers(parser)
    _add_outputs(parser)
    add_refused_flags(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        "-m",
        "-M",
        help="the backend: "
        + " or ".join(f"{name} ({entry.summary})" for name, entry in BACKENDS.items())
        + f"; default: {DEFAULTS['model']}",
    )
    parser.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        action="append",
        metavar="K=V",
        help="pretrained=DIR and, as needed, dtype, revision, tokenizer, peft, max_length, "
        "add_bos_token; with vllm any engine argument (tensor_parallel_size, ...), with server "
        "base_url, model, num_concurrent, timeout_s, retry_s, api_key_env; some need "
        "--trust_remote_code. Separated by spaces or commas, or one JSON object",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        action="extend",
        metavar="SYSTEM",
        help="several models in one process, with all other flags the same: folders or names of "
        "models or adapters, or JSON objects of --model_args and output_path",
    )
    parser.add_argument("--batch_size", "-b", help="rows in flight, or auto (default)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (hf only)")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the model, and accept engine arguments that can run code "
        "(docs/security.md)",
    )


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks",
        "-t",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="separated by spaces or commas, also patterns ('m*'); see eval-harness ls tasks",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="TASK=PATH",
        help="local rows of a task: a JSONL file, or a folder with valid.jsonl (may be repeated)",
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )
    parser.add_argument(
        "--limit", "-L", metavar="N", help="first N rows, or their share if below 1"
    )
    parser.add_argument(
        "--samples",
        "-E",
        metavar="JSON",
        help="rows of each task, from 0: '{\"gsm8k\": [0, 7]}', or a file with that",
    )
    parser.add_argument(
        "--check_integrity",
        action="store_true",
        help="print what eval-harness validate prints, before anything is loaded",
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--template", help=f"{', '.join(TEMPLATES)}, or a format string")
    parser.add_argument(
        "--apply_chat_template",
        nargs="?",
        const=True,
        metavar="NAME",
        help="same as --template chat; no name of a template is taken",
    )
    parser.add_argument(
        "--system_instruction", metavar="TEXT", help="a system message; with --template chat only"
    )
    parser.add_argument(
        "--num_fewshot",
        "-f",
        type=whole,
        metavar="N",
        help="solved examples before each question: the first N of the benchmark's fewshot rows",
    )
    parser.add_argument(
        "--fewshot_as_multiturn",
        nargs="?",
        const="true",
        metavar="BOOL",
        help="examples are turns of the conversation: true (default with the template chat) or "
        "false",
    )
    parser.add_argument(
        "--truncation",
        metavar="RULE",
        help=f"{' or '.join(TRUNCATIONS)}; default: the protocol's",
    )
    parser.add_argument("--max_prompt_tokens", type=count, metavar="N", help="default: 256")


def _add_answers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", help=f"{', '.join(PROTOCOLS)}; see eval-harness ls protocols")
    parser.add_argument(
        "--gen_kwargs",
        nargs="+",
        action="append",
        metavar="K=V",
        help="temperature=0.7 top_p=0.9 ..., as --model_args",
    )
    parser.add_argument(
        "--seed", metavar="N,...", help="one answer per seed; default: the protocol's"
    )
    parser.add_argument("--predict_only", "-x", action="store_true", help="generate, do not score")
    add_tokenizer_flag(parser)
    parser.add_argument(
        "--loglikelihood",
        action="store_true",
        help="also compute the references' NLL and perplexity",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_path", "-o", metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--log_samples",
        "-s",
        action=argparse.BooleanOptionalAction,
        help="write one row per sample, as compare and report need (default)",
    )
    parser.add_argument(
        "--write_out",
        "-w",
        action="store_true",
        help="print the first prompt of each task and its reference on standard error",
    )
    parser.add_argument(
        "--show_config", action="store_true", help="print the tasks' settings after the table"
    )
    for flag, words in (
        ("--wandb_args", "log to Weights & Biases: project=P name=N mode=offline ..."),
        ("--wandb_config_args", "more entries of that run's config"),
        (
            "--hf_hub_log_args",
            "upload as data sets to the Hub: hub_results_org=O push_results_to_hub=True "
            "push_samples_to_hub=True public_repo=True ...",
        ),
    ):
        parser.add_argument(flag, nargs="+", action="append", metavar="K=V", help=words)
