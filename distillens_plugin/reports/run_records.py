"""What a run's folder says of it, while it goes on and afterwards: numbers, answers, settings.

Nothing is locked and nothing is written. A run that is going on appends to its files, so what
follows the last line feed may be half a line: it is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillens_plugin.recipe.yaml_tags import SavedRecipeLoader
from distillens_plugin.reports.run_files import (
    AnswerLine,
    DivergedFile,
    LensLine,
    MetricsLine,
    PairsFile,
    SummaryFile,
    read_growing,
    read_whole,
)
from distillens_plugin.storage import run_folder
from eval_harness import printable
from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_yaml import read_mapping
from eval_harness.shared.shortened import shortened

VALIDATION_LOSS = "validation_loss"
_PAIR = re.compile(r"(.+)/(\d+)-(\d+)")
# Numbers of a training record that are no loss term.
_NO_TERM = {
    *("step", "epoch", "lr", "tokens_per_s", "peak_memory_bytes"),
    *("num_supervised", "grad_norm", "loss"),
}


@dataclass(frozen=True)
class Run:
    """One run, as far as it has come.

    Attributes:
        name: what pages call it: the folder's name, or more of its path where two share that.
        recipe: the resolved recipe, as plain values; empty where the file is missing.
        training: records every `log_every` steps: means over the steps since the last one.
        validation: records of the validations; step 0 is before training.
        lens: what the lens read, oldest first; empty where a run did not measure it.
        answers: generated through training; empty where a run kept none.
        summary: None while the run goes on, or if it was killed or diverged.
        diverged: why it ended, where its loss was not finite; else None.
        pairs: layer pairs that were chosen by measurement; None where none were.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: tuple[Mapping[str, float], ...] = ()
    validation: tuple[Mapping[str, float], ...] = ()
    lens: tuple[LensLine, ...] = ()
    answers: tuple[AnswerLine, ...] = ()
    summary: SummaryFile | None = None
    diverged: str | None = None
    pairs: PairsFile | None = None

    @property
    def last_step(self) -> int:
        """The last step that left a record; 0 if none did."""
        return int(max((r["step"] for r in (*self.training, *self.validation)), default=0))

    @property
    def terms(self) -> list[str]:
        """Names of the loss terms, as the recipe has them."""
        names = {name: None for record in self.training for name in record}
        return [name for name in names if name not in _NO_TERM and "/" not in name]

    @property
    def layer_pairs(self) -> list[tuple[str, int, int]]:
        """Layer pairs that training reports: term, student's layer, teacher's layer."""
        names = {name: None for record in self.training for name in record}
        found = [match for name in names if (match := _PAIR.fullmatch(name))]
        return [(match[1], int(match[2]), int(match[3])) for match in found]

    @property
    def chosen_weights(self) -> dict[str, float]:
        """Weights that the run chose (`weight: auto`), by term; the last value of each."""
        found: dict[str, float] = {}
        for record in self.training:
            for name, value in record.items():
                if name.startswith("weight/"):
                    found[name.removeprefix("weight/")] = value
        return found

    def series(self, name: str, *, validation: bool = False) -> tuple[list[int], list[float]]:
        """Steps and values of a number of the training records, or of the validations."""
        records = self.validation if validation else self.training
        points = [(int(r["step"]), r[name]) for r in records if name in r]
        return [step for step, _ in points], [value for _, value in points]


def read_run(folder: Path, *, name: str | None = None) -> Run:
    """Reads a run's folder.

    Args:
        name: for pages; default: the folder's own.
    Raises:
        DistillensError: there is no run, or one of its files is damaged; names file and line.
    """
    _check_is_run(folder)
    records = read_growing(folder / run_folder.METRICS, MetricsLine)
    numbers = [record.numbers for record in records]
    diverged = read_whole(folder / run_folder.DIVERGED, DivergedFile)
    return Run(
        folder=folder,
        name=printable(shortened(name or folder.absolute().name)),
        recipe=_recipe(folder / run_folder.RECIPE),
        training=tuple(record for record in numbers if VALIDATION_LOSS not in record),
        validation=tuple(record for record in numbers if VALIDATION_LOSS in record),
        lens=tuple(read_growing(folder / run_folder.LENS, LensLine)),
        answers=tuple(read_growing(folder / run_folder.ANSWERS, AnswerLine)),
        summary=read_whole(folder / run_folder.SUMMARY, SummaryFile),
        diverged=None if diverged is None else diverged.reason,
        pairs=read_whole(folder / run_folder.PAIRS, PairsFile),
    )


def read_runs(folders: list[Path]) -> list[Run]:
    """Several runs, with names that tell them apart.

    Raises:
        DistillensError: as `read_run`; or a folder is named twice.
    """
    for number, folder in enumerate(folders):
        if any(folder.resolve() == other.resolve() for other in folders[:number]):
            raise DistillensError(f"{folder}: named twice; name each run once")
    return [
        read_run(folder, name=name) for folder, name in zip(folders, names_of(folders), strict=True)
    ]


def names_of(folders: list[Path]) -> list[str]:
    """The shortest endings of the paths that differ: `a/train` and `b/train` are a and b."""
    parts = [folder.absolute().parts for folder in folders]
    if len(parts) == 1:
        return [parts[0][-1] if parts[0] else str(folders[0])]
    while all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    length = 1
    while len({p[-length:] for p in parts}) < len(parts) and length < max(map(len, parts)):
        length += 1
    return ["/".join(p[-length:]) for p in parts]


def _check_is_run(folder: Path) -> None:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DistillensError(f"{folder}: {found}; expected the output folder of a run")
    if not (folder / run_folder.METRICS).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{run_folder.METRICS}"))
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise DistillensError(
            f"{folder}: holds no {run_folder.METRICS}; expected the output folder of a run that "
            f"has begun to train{hint}"
        )


def _recipe(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found, _ = read_mapping(
        str(path), what="run's recipe", keys="models, train", loader=SavedRecipeLoader
    )
    return found
