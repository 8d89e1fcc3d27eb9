"""How long the commands take to start, compared with Python itself and `import torch`.

    python benchmarks/start.py [--rounds 11]

Each round starts every command once, one after the other, so that other load on the machine affects
all of them equally. The table shows medians in milliseconds, and their ratio to `python -c pass`
and to `import torch`. The first round, which fills the disk cache, is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TEACHER = "recipes/quickstart_teacher.yaml"
BASE, TORCH = "python -c pass", "python -c 'import torch'"
COMMANDS = {
    BASE: ("-c", "pass"),
    TORCH: ("-c", "import torch"),
    "import distillens_plugin": ("-c", "import distillens_plugin"),
    "distillens --help": ("-m", "distillens_plugin.cli", "--help"),
    "distillens --version": ("-m", "distillens_plugin.cli", "--version"),
    "distillens hooks --help": ("-m", "distillens_plugin.cli", "hooks", "--help"),
    "distillens recipes": ("-m", "distillens_plugin.cli", "recipes"),
    "eval-harness --help": ("-m", "eval_harness", "--help"),
    "eval-harness ls": ("-m", "eval_harness", "ls"),
    f"distillens run {TEACHER} --validate": (
        *("-m", "distillens_plugin.run", TEACHER, "--validate"),
        *("--overwrite", "--set", "output_dir=runs/start"),
    ),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """Seconds of one process, from start to end; raises CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="starts of each command (11)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds {rounds}: expected at least 1")
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if number:
                times[name].append(taken)
    medians = {name: statistics.median(found) for name, found in times.items()}
    width = max(map(len, medians))
    print(f"{'command':<{width}}  {'ms':>6}  {'/ python':>8}  {'/ torch':>8}")
    for name, median in medians.items():
        print(
            f"{name:<{width}}  {1000 * median:6.0f}  {median / medians[BASE]:8.1f}  "
            f"{median / medians[TORCH]:8.2f}"
        )


if __name__ == "__main__":
    main()
