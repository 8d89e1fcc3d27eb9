"""Runs docs/tour.ipynb from its first cell to its last, in a kernel of its own.

    python docs/site/run_tour.py                 # anew, with its outputs written into it
    python docs/site/run_tour.py --output FILE   # into another file; .ci/tour

The outputs in the repository are those of the first form. Nothing is written if a cell fails.
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TOUR = Path(__file__).resolve().parents[1] / "tour.ipynb"
_TIMEOUT_S = 600


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of this run.

    Left out is what belongs to one machine: the times at which cells ran, and what libraries write
    to standard error.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook, timeout=_TIMEOUT_S, kernel_name="python3", resources=place, record_timing=False
    ).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    # Else each machine and each Python would leave its own version there.
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TOUR, help="default: docs/tour.ipynb itself")
    output = parser.parse_args(arguments).output
    try:
        notebook = run(TOUR)
    except CellExecutionError as error:
        print(f"{TOUR}: a cell failed: {error}", file=sys.stderr)
        return 1
    nbformat.write(notebook, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
