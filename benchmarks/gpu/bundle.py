"""Makes a folder of the packages that a bare GPU machine lacks, to be put on its PYTHONPATH.

    python benchmarks/gpu/bundle.py [FOLDER]        # default: .bundle

For a machine that has CPython 3.12 on x86-64 Linux, torch, transformers and their needs, but no
network. Nothing in the folder replaces what such a machine has: every package comes without its
dependencies, each of those that are missing is named here.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The versions that the figures in docs/gpu.md were made with.
PACKAGES = (
    "torchdistill==1.1.5",
    "datasets==5.2.0",
    "multiprocess==0.70.19",
    "dill==0.4.1",
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",
    "annotated-types==0.8.0",
    "typing-inspection==0.4.5",
    "typing-extensions==4.16.0",
    "rouge-score==0.1.2",
    "nltk==3.10.4",
    "absl-py==2.5.1",
    "joblib==1.6.0",
    "click==8.5.1",
    "six==1.17.0",
    "trl==1.16.0",
    "liger-kernel==0.8.5",
)
# Published as source alone; pure Python, so a wheel that is built here runs there.
FROM_SOURCE = ("rouge-score==0.1.2",)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pip(*arguments: str) -> None:
    """Runs pip; its own message says what failed."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def fill(folder: Path) -> None:
    """Installs the packages into an empty folder."""
    with tempfile.TemporaryDirectory() as built:
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", built, *FROM_SOURCE)
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        pip(
            *("install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"),
            *("--python-version", PYTHON, "--implementation", "cp", *platforms),
            *("--find-links", built, "--target", str(folder), *PACKAGES),
        )
    for name in ("bin", "share"):
        shutil.rmtree(folder / name, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".bundle"))
    folder: Path = parser.parse_args().folder
    if folder.exists():
        if not (folder / "pydantic_core").is_dir():
            parser.error(f"{folder}: exists and is no bundle; give another name")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    # A folder that ignores itself needs no line in anybody's .gitignore.
    (folder / ".gitignore").write_text("*\n", encoding="ascii")
    fill(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {len(PACKAGES)} packages, {size / 2**20:.0f} MiB; PYTHONPATH={folder}:.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
