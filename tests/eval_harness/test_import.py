"""Importing the harness is cheap, so that scripts and trainers can do it freely."""

import json
import subprocess
import sys

HEAVY = ["torch", "vllm", "transformers", "numpy", "matplotlib", "nltk", "datasets", "jinja2"]


def loaded_after(statement: str) -> list[str]:
    """The heavy modules that the statement loads in a fresh interpreter."""
    code = (
        "import json, sys\n"
        f"{statement}\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    names: list[str] = json.loads(done.stdout.strip().split("\n")[-1])
    return names


def test_import_loads_nothing_heavy():
    assert loaded_after("import eval_harness") == []


def test_help_of_the_commands_loads_nothing_heavy():
    for command in ("score", "compare", "report"):
        statement = (
            "from eval_harness.cli import main\n"
            "try:\n"
            f"    main(['{command}', '--help'])\n"
            "except SystemExit as end:\n"
            "    assert end.code == 0"
        )
        assert loaded_after(statement) == []
