"""Whether there is a run to go on with, if it is this one, and which of its states is whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint
from distillens_plugin.storage.kept_state import Standing, damage_of, read_standing
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_bytes, write_text

_ANEW = "train anew with --overwrite"


@dataclass
class Kept:
    """What an earlier run left in the output folder.

    Attributes:
        standing: where it stands, and `state` the folder of that state; None where it has kept
            none, or has been finished.
        finished: it has nothing more to do.
        fingerprint: what it was begun with; None where that is not known.
        lines: what to tell the user.
    """

    standing: Standing | None
    state: Path | None
    finished: bool
    fingerprint: Fingerprint | None
    lines: list[str]


def find_kept(folder: Path, recipe_yaml: str, num_processes: int) -> Kept:
    """Looks for a run of this recipe and for a state without damage, and tidies up after a kill.

    Every byte of the state is checked here, before anything is loaded from it.

    Args:
        recipe_yaml: the recipe that is asked for, as `to_yaml` writes it.
    Raises:
        DistillensError: the run there is one of another recipe or number of processes, or what it
            left is damaged so that it cannot be gone on with.
    """
    if run_folder.is_half_cleared(folder):
        line = f"{folder}: an earlier run was being replaced when that was cut off; starting anew"
        return Kept(None, None, False, None, [line])
    lines = run_folder.tidy(folder)
    if (folder / run_folder.SUMMARY).is_file():
        _check_same_recipe(_read_recipe(folder), recipe_yaml, folder)
        _check_summary(folder / run_folder.SUMMARY)
        fingerprint = _read_fingerprint(folder)
        # It was killed when all was done but this.
        run_folder.remove_states(folder)
        lines.append(f"{folder}: this run is finished; there is nothing to go on with")
        return Kept(None, None, True, fingerprint, lines)
    state = _whole_state(folder, lines)
    if state is None:
        return _without_state(folder, recipe_yaml, lines)
    standing = read_standing(state)
    _check_same_recipe(standing.recipe, recipe_yaml, folder)
    if standing.num_processes != num_processes:
        raise DistillensError(
            f"--resume: the run in {folder} had {standing.num_processes} processes, found "
            f"{num_processes}; start as many, or {_ANEW}"
        )
    _check_best(folder, standing)
    return Kept(standing, state, False, standing.fingerprint, lines)


def put_records_back(folder: Path, kept: Kept) -> list[str]:
    """Makes recipe.yaml, fingerprint.json and metrics.jsonl what they were when the state was kept.

    Returns:
        A line for each that had been cut, changed or lost.
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
            lines.append(f"{folder / name}: was damaged or missing; put back as the state has it")
    metrics = _read(state / run_folder.METRICS)
    if metrics is not None and not (_read(folder / run_folder.METRICS) or b"").startswith(metrics):
        write_bytes(folder / run_folder.METRICS, metrics)
        told = folder / run_folder.METRICS
        lines.append(f"{told}: was damaged or missing; put back as the state has it")
    return lines


def metrics_bytes(state: Path) -> int:
    """Length of metrics.jsonl when the state was kept; later lines are written again."""
    path = state / run_folder.METRICS
    return path.stat().st_size if path.is_file() else 0


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
                told = damages[newest]
                lines.append(f"{newest}: {told}; going on from the state before it, {before}")
            elif state == before:
                lines.append(f"{newest}: is missing; going on from the state before it, {before}")
            return state
        damages[state] = damage
    if damages:
        told = "; ".join(f"{state}: {damage}" for state, damage in damages.items())
        raise DistillensError(f"--resume: no state is whole ({told}); put it back, or {_ANEW}")
    return None


def _without_state(folder: Path, recipe_yaml: str, lines: list[str]) -> Kept:
    """An earlier run was cut off before it kept a state, or there was none at all."""
    if not folder.is_dir() or not any((folder / name).exists() for name in run_folder.OWN):
        return Kept(None, None, False, None, lines)
    _check_same_recipe(_read_recipe(folder), recipe_yaml, folder)
    lines.append(
        f"{folder}: the run there was cut off before it kept a state (it keeps one after each "
        "epoch, unless resumable is false); starting anew from step 0"
    )
    return Kept(None, None, False, None, lines)


def _check_best(folder: Path, standing: Standing) -> None:
    """`last` and a `best` of this very step are written again; an older best must be there."""
    best = folder / run_folder.BEST
    best_step = standing.history["best_step"]
    if best_step != standing.step and not any(best.glob("*.safetensors")):
        raise DistillensError(
            f"--resume: {best} is missing or empty, and step {best_step} was the best so far; put "
            f"it back, or {_ANEW}"
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
        reason = "it is no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); put it back, or {_ANEW}")


def _read_recipe(folder: Path) -> str:
    path = folder / run_folder.RECIPE
    try:
        text = path.read_text(encoding="utf-8")
        if isinstance(_parse(text), dict):
            return text
        reason = "it is no recipe"
    except FileNotFoundError as error:
        raise DistillensError(
            f"--resume: {path} is missing, so that nothing says whose run this is; put it back, or "
            f"{_ANEW}"
        ) from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); put it back, or {_ANEW}")


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
    raise DistillensError(f"--resume: {path} cannot be read ({reason}); put it back, or {_ANEW}")


def _check_same_recipe(before: str, now: str, folder: Path) -> None:
    """Refuses to go on with a run of another recipe; where and what it keeps does not matter.

    Raises:
        DistillensError: naming the first key that differs.
    """
    difference = _difference(_parse(before), _parse(now), "")
    if difference is not None:
        raise DistillensError(
            f"--resume: {folder / run_folder.RECIPE} is of another recipe ({difference}); "
            f"put it back, name another folder with --output_dir, or {_ANEW}"
        )


def _difference(before: Any, now: Any, path: str) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            here = f"{path}.{key}" if path else str(key)
            if here in ("output_dir", "resumable"):
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
