"""`eval-harness ls`: lists the names of benchmarks, protocols, backends, templates and metrics."""

import argparse
import sys
from collections.abc import Callable

# lm-eval's other kinds of names.
_NOT_HERE = ("groups", "subtasks", "tags")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "ls",
        help="list benchmarks, protocols and the other names",
        description="Lists benchmarks, protocols, backends, templates and metrics.",
    )
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help=f"one of {', '.join(_LISTS)}; default: all"
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the lists. Returns 0."""
    from eval_harness.errors import DistillensError
    from eval_harness.shared.near import near_names

    if args.what in _NOT_HERE:
        raise DistillensError(
            f"{args.what}: benchmarks are not grouped here; eval-harness ls tasks lists them"
        )
    if args.what is not None and args.what not in _LISTS:
        raise DistillensError(
            f"{args.what}: not known, expected {', '.join(_LISTS)}{near_names(args.what, _LISTS)}"
        )
    lines: list[str] = []
    for name in _LISTS if args.what is None else (args.what,):
        title, list_names = _LISTS[name]
        lines += [f"{title}:", *(f"  {line}" for line in list_names(args.include_path))]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _tasks(include_path: str | None) -> list[str]:
    from eval_harness.benchmarks import find_benchmarks

    lines = []
    for name, benchmark in sorted(find_benchmarks(include_path).items()):
        lines.append(f"{name:<12} {benchmark.description}")
        metrics = ", ".join(benchmark.metrics) or "no metrics"
        lines.append(f"{'':<12} {benchmark.location()}; {metrics}")
    return lines


def _protocols(_: str | None) -> list[str]:
    from eval_harness.protocols.protocol import PROTOCOLS

    lines = []
    for name, protocol in PROTOCOLS.items():
        settings = ", ".join(f"{key}={value}" for key, value in protocol.settings().items())
        dtype = f", dtype={protocol.dtype}" if protocol.dtype else ""
        lines.append(f"{name:<12} {settings}{dtype}")
    return lines


def _backends(_: str | None) -> list[str]:
    from eval_harness.backends.table import BACKENDS

    return [f"{name:<12} {entry.summary}" for name, entry in BACKENDS.items()]


def _templates(_: str | None) -> list[str]:
    from eval_harness.shared.text.template_table import TEMPLATES

    return list(TEMPLATES)


def _metrics(_: str | None) -> list[str]:
    from eval_harness.scoring.checked_metrics import CHECKED_METRICS
    from eval_harness.scoring.metrics import METRICS

    titles = {name: metric.title for name, metric in METRICS.items()}
    titles |= {name: metric.title for name, metric in CHECKED_METRICS.items()}
    return [f"{name:<23} {title}" for name, title in titles.items()]


_LISTS: dict[str, tuple[str, Callable[[str | None], list[str]]]] = {
    "tasks": ("Benchmarks", _tasks),
    "protocols": ("Protocols", _protocols),
    "backends": ("Backends", _backends),
    "templates": ("Templates", _templates),
    "metrics": ("Metrics", _metrics),
}
