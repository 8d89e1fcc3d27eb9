"""Which run `--resume` would continue, whether it is the same one, and from which state."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint
from distillens_plugin.storage.kept_state import Standing, damage_of, read_standing
from distillens_plugin.training.kept_pairs import Pairs, measured_pairs, without_new_pairs
from distillens_plugin.training.later_best import with_later_best
from distillens_plugin.training.other_processes import for_processes, without_accumulation
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_bytes, write_text

_ANEW = "start over with --overwrite"
# What changes nothing that is learned, or is compared by content; `sharding` says only where models
# lie, and the validation loss does not depend on its batches but for rounding.
_MAY_DIFFER = (
    "output_dir",
    "resumable",
    "push_to_hub",
    "hub_private",
    "report",
    "sharding",
    # A cache is held against teacher and rows when it is opened, wherever it lies. (Another engine
    # may have filled it, whose states differ in their last bits.)
    "teacher_cache.path",
    "teacher_cache.teacher",
    "teacher_cache.max_gb",
    "train.save_every",
    "train.keep_last",
    "train.val_data_loader",
    "trackers",
    "validation_terms",
    "log_every",
    # The length of answers chooses the best model, with `best_by: rougeL`.
    "samples.num_rows",
    "threads",
    # The commit is held against that of before: a branch on the Hub may have moved on.
    "models.teacher_model.revision",
    "models.student_model.revision",
    "models.model.revision",
)


@dataclass
class Kept:
    """What an earlier run left in the output folder.

    Attributes:
        standing: where it stands, and `state` the folder of that state; None where it kept none,
            or is finished.
        finished: it has nothing more to do.
        fingerprint: what it started with; None where that is unknown.
        lines: what to print for the user.
        other_processes: it had another number of them; `standing` is for that of now.
        measured: the layer pairs that the state's recipe has, of terms that measured theirs.
    """

    standing: Standing | None
    state: Path | None
    finished: bool
    fingerprint: Fingerprint | None
    lines: list[str]
    other_processes: bool = False
    measured: Pairs = field(default_factory=dict)


def find_kept(folder: Path, recipe_yaml: str, num_processes: int) -> Kept:
    """Looks for a run of this recipe with an undamaged state, and tidies up after a kill.

    Every byte of the state is checked here, before anything is loaded from it.

    Args:
        recipe_yaml: the recipe to be run, as `to_yaml` writes it.
    Raises:
        DistillensError: the run there has another recipe, or a number of processes whose steps
            have other batches, or is too damaged to be resumed.
    """
    if run_folder.is_half_cleared(folder):
        line = f"{folder}: replacing an earlier run was interrupted; starting from step 0"
        return Kept(None, None, False, None, [line])
    lines = run_folder.tidy(folder)
    if (folder / run_folder.SUMMARY).is_file():
        _check_same_recipe(_read_recipe(folder), recipe_yaml, folder)
        _check_summary(folder / run_folder.SUMMARY)
        fingerprint = _read_fingerprint(folder)
        # It was killed just before this last act.
        run_folder.remove_states(folder)
        lines.append(f"{folder}: this run is already finished; nothing to resume")
        return Kept(None, None, True, fingerprint, lines)
    state = _whole_state(folder, lines)
    if state is None:
        return _without_state(folder, recipe_yaml, lines)
    standing = read_standing(state)
    measured = measured_pairs(_parse(standing.recipe))
    others = standing.num_processes != num_processes
    _check_same_recipe(standing.recipe, recipe_yaml, folder, with_accumulation=not others)
    if others:
        before, now = _parse(standing.recipe), _parse(recipe_yaml)
        standing = for_processes(standing, before, now, num_processes=num_processes, folder=folder)
        standing = replace(standing, recipe=recipe_yaml)
    _check_best(folder, standing)
    standing, told = with_later_best(folder, standing)
    lines += told
    return Kept(standing, state, False, standing.fingerprint, lines, others, measured)


def put_records_back(folder: Path, kept: Kept) -> list[str]:
    """Makes recipe, fingerprint and growing files begin as they were when the state was kept.

    Returns:
        A line for each file that was truncated, changed or lost.
    """
    standing, state = kept.standing, kept.state
    assert standing is not None
    assert state is not None
    lines = []
    texts = {
        run_folder.RECIPE: standing.recipe,
        run_folder.FINGERPRINT: encode_fingerprint(standing.fingerprint),
    }
    for name, text in texts.items():
        if _read(folder / name) != text.encode():
            write_text(folder / name, text)
            if name == run_folder.RECIPE and kept.other_processes:
                continue  # it has another grad_accum_step now
            lines.append(f"{folder / name}: was damaged or missing; restored from the state")
    for name in run_folder.GROWING:
        path, records = folder / name, _read(state / name)
        if records is not None and not (_read(path) or b"").startswith(records):
            write_bytes(path, records)
            lines.append(f"{path}: was damaged or missing; restored from the state")
    return lines


def encode_fingerprint(fingerprint: Fingerprint) -> str:
    """The text of fingerprint.json."""
    return json.dumps(fingerprint, indent=1) + "\n"


def _whole_state(folder: Path, lines: list[str]) -> Path | None:
    """The newest state without damage; None where none was kept."""
    newest, before = folder / run_folder.STATE, folder / run_folder.STATE_BEFORE
    damages: dict[Path, str] = {}
    for state in (newest, before):
        if not state.is_dir():
            continue
        damage = damage_of(state)
        if damage is None:
            if damages:
                lines.append(f"{newest}: {damages[newest]}; resuming from the one before, {before}")
            elif state == before:
                lines.append(f"{newest}: is missing; resuming from the one before, {before}")
            return state
        damages[state] = damage
    if damages:
        found = "; ".join(f"{state}: {damage}" for state, damage in damages.items())
        raise DistillensError(
            f"--resume: every state is damaged ({found}); restore one, or {_ANEW}"
        )
    return None


def _without_state(folder: Path, recipe_yaml: str, lines: list[str]) -> Kept:
    """An earlier run was interrupted before it kept a state, or there was none at all."""
    if not folder.is_dir() or not any((folder / name).exists() for name in run_folder.OWN):
        return Kept(None, None, False, None, lines)
    _check_same_recipe(_read_recipe(folder), recipe_yaml, folder)
    lines.append(
        f"{folder}: the run there was interrupted before it kept a state (it keeps one after each "
        "epoch or train.save_every, unless resumable is false); starting from step 0"
    )
    return Kept(None, None, False, None, lines)


def _check_best(folder: Path, standing: Standing) -> None:
    """`last` and a `best` of this very step are written again; an older best must be there."""
    best = folder / run_folder.BEST
    best_step = standing.history["best_step"]
    if best_step not in (None, standing.step) and not any(best.glob("*.safetensors")):
        raise DistillensError(
            f"--resume: {best} is missing or empty, and step {best_step} was the best so far; "
            f"restore it, or {_ANEW}"
        )


class _Loader(yaml.SafeLoader):
    """Reads a recipe to compare it: what tags stand for is not looked up."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {f"!{suffix}": loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return {f"!{suffix}": loader.construct_sequence(node, deep=True)}
    return {f"!{suffix}": node.value}


_Loader.add_multi_constructor("!", _tagged)


def _check_summary(path: Path) -> None:
    try:
        if isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            return
        reason = "it is not a JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); restore it, or {_ANEW}")


def _read_recipe(folder: Path) -> str:
    path = folder / run_folder.RECIPE
    try:
        text = path.read_text(encoding="utf-8")
        if isinstance(_parse(text), dict):
            return text
        reason = "it is not a recipe"
    except FileNotFoundError as error:
        raise DistillensError(
            f"--resume: {path} is missing, so it is unknown which recipe this run has; restore it, "
            f"or {_ANEW}"
        ) from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); restore it, or {_ANEW}")


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _read_fingerprint(folder: Path) -> Fingerprint | None:
    """None where there is none: a run of an older version."""
    path = folder / run_folder.FINGERPRINT
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if set(found) >= {"data", "files", "surroundings"}:
            return dict(found)
        reason = "it has other keys"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); restore it, or {_ANEW}")


def _check_same_recipe(
    before: str, now: str, folder: Path, *, with_accumulation: bool = True
) -> None:
    """Refuses to resume a run of another recipe; where and what it keeps does not matter.

    Args:
        with_accumulation: its `grad_accum_step` must be the same too.
    Raises:
        DistillensError: naming the first key that differs.
    """
    given = _parse(now)
    recipes = without_new_pairs(_parse(before), given), given
    if not with_accumulation:
        recipes = without_accumulation(recipes[0]), without_accumulation(recipes[1])
    # A recipe without the section has its defaults.
    old, new = ({"samples": {}, **recipe} for recipe in recipes)
    difference = _difference(old, new, "")
    if difference is not None:
        raise DistillensError(
            f"--resume: {folder / run_folder.RECIPE} is another recipe ({difference}); use that "
            f"one, name another folder with --output_dir, or {_ANEW}"
        )


def _difference(before: Any, now: Any, path: str) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            here = f"{path}.{key}" if path else str(key)
            if here in _MAY_DIFFER:
                continue
            if key not in now or key not in before:
                kept, given = before.get(key, "not there"), now.get(key, "not there")
                return f"{here} was {kept!r} and is {given!r}"
            found = _difference(before[key], now[key], here)
            if found is not None:
                return found
        return None
    return None if before == now else f"{path} was {before!r} and is {now!r}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
