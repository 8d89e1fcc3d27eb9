"""The shipped recipes, methods and studies: their folder, and the names that stand for them.

In a wheel, recipes/ is a folder of this package; in a clone it is beside the package.
"""

import os
import re
from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.near import near_names

_PACKAGE = Path(__file__).resolve().parent.parent
_SUFFIX = ".yaml"
STUDIES = "studies"
# Configurations of accelerate's launcher, which name no recipe.
LAUNCHES = "accelerate"


def packaged_folder() -> Path:
    """The folder of the shipped recipes.

    Raises:
        DistillensError: the installation lacks it.
    """
    for folder in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes"):
        if (folder / "quickstart.yaml").is_file():
            return folder
    raise DistillensError(
        f"{_PACKAGE}: found no recipes in this installation, expected the folder recipes; "
        "reinstall distillens"
    )


def packaged_names() -> list[str]:
    """Such as `quickstart`, `methods/sft` and `studies/quickstart`, sorted by folder."""
    folder = packaged_folder()
    files = [path.relative_to(folder) for path in folder.rglob(f"*{_SUFFIX}")]
    names = [path.as_posix().removesuffix(_SUFFIX) for path in files if path.parts[0] != LAUNCHES]
    return sorted(names, key=lambda name: (os.path.dirname(name), name))


def find_recipe(name: str | os.PathLike[str], *, within: str = "") -> str:
    """The file that a name stands for: an existing one, or else the packaged one.

    Args:
        name: a path, with or without .yaml, or a packaged name such as quickstart.
        within: the folder of the packaged files that a name may leave out: `studies`.
    Returns:
        the path as given if nothing else fits; reading it reports what is wrong.
    Raises:
        DistillensError: no such file, and a bare name that no packaged file has.
    """
    text = os.fspath(name)
    for here in (text, text + _SUFFIX):
        if os.path.isfile(here):
            return here
    short = text.removesuffix(_SUFFIX)
    # Only words and slashes: `../x` or an absolute path never leads into the package.
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", short):
        return text
    names = packaged_names()
    for candidate in ([f"{within}/{short}"] if within else []) + [short]:
        if candidate in names:
            return str(packaged_folder() / (candidate + _SUFFIX))
    in_clone = short.removeprefix("recipes/")
    if in_clone != short and in_clone in names:
        raise DistillensError(
            f"{text}: found no such file, expected a YAML file; the shipped one is {in_clone} here"
        )
    if short != text or os.path.lexists(text):
        return text
    prefix = f"{within}/" if within else ""
    known = [known.removeprefix(prefix) for known in names if known.startswith(prefix)]
    raise DistillensError(
        f"{text}: found no file {text} or {text}{_SUFFIX} and no packaged recipe of that name, "
        f"expected a YAML file or a name from `distillens recipes`{near_names(short, known)}"
    )


def description(path: Path) -> str:
    """The first sentence of the comment that a recipe starts with, without its references."""
    lines = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") or not line.strip("# \n"):
                break
            lines.append(line.strip("# \n"))
    text = re.sub(r" \([^)]*\)", "", " ".join(lines))
    # A sentence ends before a capital: "et al. 2024" does not end one.
    return re.split(r"(?<=[.?])(?= [A-Z])", text, maxsplit=1)[0].rstrip(".")


def shipped_files() -> list[Path]:
    """All files of the packaged recipes, data and models too, as paths below their folder."""
    folder = packaged_folder()
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    )
