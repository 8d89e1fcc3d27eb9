"""From a study to its runs: the recipe, command line, folder and fingerprint of each."""

import itertools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.study.digests import other_engine, resolved_keys
from distillens_plugin.study.generated import answers_depend_on, generated_file
from distillens_plugin.study.short_keys import Settings, expand
from distillens_plugin.study.spec import Study
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.model_folder.trust import RECIPE_FLAG

Kind = Literal["tune", "main", "compute"]


@dataclass(frozen=True, eq=False)
class Run:
    """One training run.

    Attributes:
        kind: a search run, a final run at equal steps, or one at equal compute.
        chosen: what the search chose or tries, by the study's own key names.
        overrides: --set texts, in order.
        folder: of this run; `train` in it is the runner's output folder.
    """

    study: Study = field(repr=False)
    kind: Kind
    method: str
    seed: int
    chosen: Settings
    overrides: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """Unique within the study: its folder's name from the study's folder."""
        return str(self.folder.relative_to(self.study.output_dir))

    @property
    def train_folder(self) -> Path:
        return self.folder / "train"

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            DistillensError: what the method makes of the recipe is wrong; names the method.
        """
        try:
            recipe = load_recipe(
                self.study.recipe,
                [*self.overrides, f"seed={self.seed}"],
                self.study.is_trusted,
                fragments=self.study.methods[self.method].fragments,
            )
            _check_for_study(recipe, self.kind)
        except DistillensError as error:
            where = self.study.where("methods", self.method)
            raise DistillensError(f"{where}: {error}") from None
        return recipe

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe's keys by dotted path, local files and folders as digests of their content.

        Moving the study does not change it; changing a file does. A file that the study has yet to
        make is left out.
        """
        found = resolved_keys(self.recipe)
        if (engine := other_engine(self.recipe)) is not None:
            found["teacher_cache.engine"] = engine
        if self.study.methods[self.method].generate is not None:
            # Not their content alone: another teacher's answers would have to be made again.
            found["generated"] = digest(answers_depend_on(self.study, self.method))
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that affects the run's result."""
        return digest(self.resolved)

    def command(self, mode: Literal["--resume", "--dry-run"] = "--resume") -> list[str]:
        """What is run, to be copied into a terminal; with --dry-run, its trial step."""
        command = [sys.executable, "-m", "distillens_plugin.run", self.study.recipe]
        for fragment in self.study.methods[self.method].fragments:
            command += ["--with", fragment]
        for text in self.overrides:
            command += ["--set", text]
        if self.study.is_trusted:
            command.append(RECIPE_FLAG)
        command += ["--seed", str(self.seed), "--output_dir", str(self.train_folder)]
        return [*command, mode]


def _check_for_study(recipe: Recipe, kind: Kind) -> None:
    """Refuses what is right for one run, not for many that are compared.

    Raises:
        DistillensError: see above.
    """
    if recipe.push_to_hub is not None:
        raise DistillensError(
            f"{recipe.where('push_to_hub')}: found {recipe.push_to_hub}, to which all runs of the "
            "study would upload, each over the other; delete it (set: {push_to_hub: null}), and "
            "upload the model that you choose"
        )
    if recipe.train.early_stopping is not None and kind != "tune":
        raise DistillensError(
            f"{recipe.where('train.early_stopping')}: would end runs at different steps, but a "
            "study compares final runs at equal steps; delete it (set: {train.early_stopping: "
            "null}), since the best model of each run is kept anyway; a search may have it "
            "(tune.set)"
        )
    if recipe.datasets.validation is None and kind == "tune":
        raise DistillensError(
            f"{recipe.where('datasets.validation')}: missing, but a search compares validation "
            "losses; add it, or delete the methods' tune"
        )


def make_run(
    study: Study,
    kind: Kind,
    method: str,
    seed: int,
    *,
    chosen: Mapping[str, Any] | None = None,
    num_steps: int | None = None,
) -> Run:
    """One run of a method.

    Args:
        chosen: settings of the search, which come after the study's and the method's own.
        num_steps: for equal compute: the length of training.
    """
    chosen = chosen or {}
    spec = study.methods[method]
    layers = [expand(study.set), expand(spec.set)]
    if spec.generate is not None:
        layers.append({"datasets.train.path": str(generated_file(study, method))})
    if kind == "tune" and study.tune is not None:
        layers.append(expand(study.tune.set))
    layers.append(expand(chosen))
    if num_steps is not None:
        layers.append(expand({"steps": num_steps}))
    values: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            # To the end: a key above it that was set before must not replace it.
            values.pop(key, None)
            values[key] = value
    parts = [kind, method] + ([slug(chosen)] if kind == "tune" else []) + [f"seed_{seed}"]
    return Run(
        study=study,
        kind=kind,
        method=method,
        seed=seed,
        chosen=dict(chosen),
        overrides=tuple(f"{key}={json.dumps(value)}" for key, value in values.items()),
        folder=Path(study.output_dir).joinpath(*parts),
    )


def grid(values: Mapping[str, list[Any]]) -> list[Settings]:
    """All combinations, the first key changing slowest."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def slug(settings: Mapping[str, Any]) -> str:
    """Settings as a folder's name; unique, and readable if they are short."""
    text = ",".join(
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    )
    plain = re.sub(r"[^A-Za-z0-9=.,_+-]", "_", text)
    dotted = any("." in key for key in settings)
    if plain == text and len(text) <= 80 and not dotted:
        return text
    return f"{plain[:60]}-{digest(dict(settings))[:8]}"


def num_steps_or_epochs(recipe: Recipe) -> tuple[str, int]:
    """The length of training as the recipe gives it: ("steps" or "epochs", how many)."""
    if recipe.train.num_steps is not None:
        return "steps", recipe.train.num_steps
    return "epochs", recipe.train.num_epochs or 1
