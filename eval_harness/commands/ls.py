"""`eval-harness ls`: the benchmarks and protocols there are."""

import argparse
import sys


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "ls", help="list benchmarks and protocols", description="Lists benchmarks and protocols."
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="folder of your own benchmark YAML files"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the lists. Returns 0."""
    from eval_harness.benchmarks import find_benchmarks
    from eval_harness.protocols.protocol import PROTOCOLS

    lines = ["Benchmarks:"]
    for name, benchmark in sorted(find_benchmarks(args.include_path).items()):
        lines.append(f"  {name:<12} {benchmark.description}")
        lines.append(f"  {'':<12} {benchmark.location()}; {', '.join(benchmark.metrics)}")
    lines.append("Protocols:")
    for name, protocol in PROTOCOLS.items():
        settings = ", ".join(f"{key}={value}" for key, value in protocol.settings().items())
        dtype = f", dtype={protocol.dtype}" if protocol.dtype else ""
        lines.append(f"  {name:<12} {settings}{dtype}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
