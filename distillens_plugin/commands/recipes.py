"""`distillens recipes`: the shipped recipes, methods and studies, listed or written out."""

import argparse
import os
import shutil
import textwrap
from itertools import groupby
from pathlib import Path

_TITLES = {
    "": "Recipes (distillens run NAME)",
    "methods": "Methods (distillens run NAME --with methods/NAME)",
    "studies": "Studies (distillens study NAME)",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "recipes",
        help="list the shipped recipes, or write them out",
        description="Lists the shipped recipes, methods and studies: names that stand for their "
        "files in every command, such as `distillens run quickstart`.",
    )
    parser.add_argument(
        "--copy",
        metavar="DIR",
        help="copy them and their data to DIR; existing files are not replaced",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the list, or writes the files. Returns 0."""
    lines = _list() if arguments.copy is None else [_copy(arguments.copy)]
    print("\n".join(lines))
    return 0


def _list() -> list[str]:
    from distillens_plugin.recipe.packaged import description, packaged_folder, packaged_names

    folder = packaged_folder()
    # Lines that go to a file or another program are not shortened.
    width = shutil.get_terminal_size(fallback=(250, 24)).columns
    lines: list[str] = []
    for group, names in groupby(packaged_names(), key=os.path.dirname):
        of_group = list(names)
        column = max(map(len, of_group)) + 2
        lines.append(f"{_TITLES.get(group, group)}:")
        for name in of_group:
            text = description(folder / f"{name}.yaml")
            shown = textwrap.shorten(text, max(width - column - 2, 20), placeholder=" ...")
            lines.append(f"  {name:<{column}}{shown}")
    lines.append("Each name stands for a file. To edit the files: distillens recipes --copy DIR")
    return lines


def _copy(target: str) -> str:
    from distillens_plugin.recipe.packaged import packaged_folder, shipped_files
    from eval_harness.errors import DistillensError
    from eval_harness.shared.files.atomic import check_writable, write_bytes

    folder, files = packaged_folder(), shipped_files()
    there = [file for file in files if os.path.lexists(Path(target) / file)]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise DistillensError(
            f"--copy {target}: found existing {there[0]}{more}, expected a folder without these "
            "files; name another folder"
        )
    check_writable(target)
    for file in files:
        write_bytes(Path(target) / file, (folder / file).read_bytes())
    return f"{len(files)} files in {target}; try: distillens run {Path(target, 'quickstart.yaml')}"
