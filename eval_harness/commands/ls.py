"""`eval-harness ls`: lists the names of benchmarks, protocols, backends, templates and metrics."""

import argparse
import sys


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "ls",
        help="list benchmarks, protocols and the other names",
        description="Lists benchmarks, protocols, backends, templates and metrics.",
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the lists. Returns 0."""
    from eval_harness.backends.table import BACKENDS
    from eval_harness.benchmarks import find_benchmarks
    from eval_harness.protocols.protocol import PROTOCOLS
    from eval_harness.scoring.metrics import METRICS
    from eval_harness.shared.text.template_table import TEMPLATES

    lines = ["Benchmarks:"]
    for name, benchmark in sorted(find_benchmarks(args.include_path).items()):
        lines.append(f"  {name:<12} {benchmark.description}")
        lines.append(f"  {'':<12} {benchmark.location()}; {', '.join(benchmark.metrics)}")
    lines.append("Protocols:")
    for name, protocol in PROTOCOLS.items():
        settings = ", ".join(f"{key}={value}" for key, value in protocol.settings().items())
        dtype = f", dtype={protocol.dtype}" if protocol.dtype else ""
        lines.append(f"  {name:<12} {settings}{dtype}")
    lines.append("Backends:")
    lines += [f"  {name:<12} {entry.summary}" for name, entry in BACKENDS.items()]
    lines += ["Templates:", *(f"  {name}" for name in TEMPLATES)]
    lines.append("Metrics:")
    lines += [f"  {name:<12} {metric.title}" for name, metric in METRICS.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
