"""Checks that text files end with one newline and that no line ends with a blank.

    python .ci/end_of_file.py FILE...

Prints what is wrong, a line each, and exits with 1 then.
"""

import sys
from pathlib import Path

# Written by the tokenizers library; their bytes are part of a run's fingerprint.
WRITTEN_BY_PROGRAMS = ("tokenizer.json",)


def problems(path: Path) -> list[str]:
    """What is wrong with a file; nothing for binary files, empty ones and those that are gone."""
    if path.name in WRITTEN_BY_PROGRAMS:
        return []
    content = path.read_bytes() if path.is_file() else b""
    if not content or b"\0" in content:
        return []
    found = [
        f"{path}:{number}: a blank at the end of the line"
        for number, line in enumerate(content.split(b"\n"), start=1)
        if line != line.rstrip()
    ]
    if not content.endswith(b"\n"):
        found.append(f"{path}: no newline at the end")
    elif content.endswith(b"\n\n"):
        found.append(f"{path}: empty lines at the end")
    return found


def main(names: list[str]) -> int:
    """Checks the files; returns the exit code."""
    found = [problem for name in names for problem in problems(Path(name))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
