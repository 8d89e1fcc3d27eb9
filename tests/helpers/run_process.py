"""`python -m distillens_plugin.run` as a real process, and what it wrote."""

import json
import os
import subprocess
import sys

import yaml
from tiny_run import REPO

ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
}


def distillens(*arguments, launcher=(), cwd=REPO, timeout=300):
    command = [sys.executable, *launcher, "-m", "distillens_plugin.run", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, cwd=cwd
    )


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def change(path, dotted, value):
    """Sets a key of a recipe file."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    node = recipe
    *parents, last = dotted.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def records(folder):
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
