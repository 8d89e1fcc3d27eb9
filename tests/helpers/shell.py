"""Commands of the documentation, run as a reader types them, with this environment's programs."""

import os
import subprocess
import sys
from pathlib import Path

from warm_programs import programs


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs lines for bash on the CPU; they must succeed."""
    places = [programs(), str(Path(sys.executable).parent), os.environ["PATH"]]
    path = os.pathsep.join(filter(None, places))
    own = {"PATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, **own, **variables},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def run_of_page(command: str, folder: Path) -> str:
    """Runs a command of docs/trainers.md without a GPU or a network; returns all that it prints."""
    # On CPUs accelerate starts several processes only if it is told so, as the page says.
    command = command.replace("accelerate launch", "accelerate launch --multi_gpu")
    done = shell(command, folder, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    return done.stdout + done.stderr
