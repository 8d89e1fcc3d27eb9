"""Importing the harness is cheap, so that scripts and trainers can do it freely."""

import json
import subprocess
import sys

HEAVY = ["torch", "vllm", "transformers", "numpy", "matplotlib", "nltk", "datasets", "jinja2"]


def loaded_after(statement: str) -> tuple[float, list[str]]:
    """Seconds that the statement takes in a fresh interpreter, and heavy modules it loads."""
    code = (
        "import json, sys, time; start = time.perf_counter()\n"
        f"{statement}\n"
        "seconds = time.perf_counter() - start\n"
        f"print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    seconds, names = json.loads(done.stdout.strip().split("\n")[-1])
    return seconds, names


def test_import_is_quick_and_loads_nothing_heavy():
    seconds, names = min(loaded_after("import eval_harness") for _ in range(3))
    assert names == []
    assert seconds < 0.2


def test_help_of_the_commands_loads_nothing_heavy():
    for command in ("score", "compare", "report"):
        statement = (
            "from eval_harness.cli import main\n"
            "try:\n"
            f"    main(['{command}', '--help'])\n"
            "except SystemExit as end:\n"
            "    assert end.code == 0"
        )
        assert loaded_after(statement)[1] == []
