"""Types of what a notebook passes; the command line's own parser gives no other ones."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval_harness.errors import DistillensError


def path_of(value: object, where: str) -> str:
    """The path as a text.

    Raises:
        DistillensError: neither a text nor a path object.
    """
    if not isinstance(value, str | os.PathLike):
        raise _wrong(where, value, "a text or a path")
    return str(os.fspath(value))


def folder_of(value: object, where: str) -> Path:
    """The path of a folder to write to.

    Raises:
        DistillensError: neither a text nor a path object; or empty, which would be the folder that
            the process happens to work in.
    """
    text = path_of(value, where)
    if not text.strip():
        raise DistillensError(
            f"{where} = {text!r} is empty, expected a folder; name one ('.' is the current folder)"
        )
    return Path(text)


def tasks_of(tasks: object) -> str | list[str]:
    """One text, or a list of them; a path object may stand for the path of a benchmark file.

    Raises:
        DistillensError: something else.
    """
    if isinstance(tasks, str):
        return tasks
    names = [tasks] if isinstance(tasks, os.PathLike) else tasks
    if not isinstance(names, Sequence):
        raise _wrong("tasks", tasks, "a text or a list of texts")
    return [path_of(name, f"tasks[{place}]") for place, name in enumerate(names)]


def check_names(**values: object) -> None:
    """Refuses what is not a text.

    Raises:
        DistillensError: the argument and what it was.
    """
    for where, value in values.items():
        if not isinstance(value, str):
            raise _wrong(where, value, "a text")


def check_texts(**values: object) -> None:
    """Refuses what is neither None nor a text.

    Raises:
        DistillensError: the argument and what it was.
    """
    check_names(**{where: value for where, value in values.items() if value is not None})


def check_switches(**values: object) -> None:
    """Refuses what is not True or False: the text "no" would count as true.

    Raises:
        DistillensError: the argument and what it was.
    """
    for where, value in values.items():
        if not isinstance(value, bool):
            raise _wrong(where, value, "True or False")


def check_mappings(**values: object) -> None:
    """Refuses what is neither None nor a mapping from texts.

    Raises:
        DistillensError: the argument and what it was.
    """
    for where, value in values.items():
        if value is None:
            continue
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(where, value, "a dict whose keys are texts")


def check_seeds(seeds: object) -> None:
    """Refuses what is neither None nor a list of integers.

    Raises:
        DistillensError: the seeds as they were given.
    """
    if seeds is None:
        return
    if not isinstance(seeds, Sequence) or not all(_is_whole(seed) for seed in seeds):
        raise _wrong("seeds", seeds, "a list of integers")


def check_lists(**values: object) -> None:
    """Refuses what is not an ordered sequence, or is one text.

    Raises:
        DistillensError: the argument and what it was.
    """
    for where, value in values.items():
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise DistillensError(
                f"{where}: expected a list of texts, found {type(value).__name__}"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(where: str, value: object, expected: str) -> DistillensError:
    return DistillensError(f"{where} = {repr(value)[:80]}, expected {expected}")
