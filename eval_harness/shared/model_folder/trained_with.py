"""How a model's training prompts looked: a small file beside its weights."""

import json
from pathlib import Path
from typing import Any

FILE = "distillens.json"
_FORMAT = 1


def training_note(template: str, *, begins_with_token: bool) -> str:
    """The file's content.

    Args:
        template: of the training prompts.
        begins_with_token: whether prompts began with a token that is not part of the template.
    """
    note = {"format": _FORMAT, "template": template, "add_bos_token": begins_with_token}
    return json.dumps(note, indent=2) + "\n"


def differences(folder: Path, template: str, begins_with_token: bool) -> list[str]:
    """How an evaluation differs from training, one line each; none if the folder has no such file.

    Args:
        folder: of the model, or of its adapter: what was trained last.
    """
    note = _read(folder / FILE)
    return [
        f"the model was trained with {trained}, but is evaluated with {now}; see {key}"
        for trained, now, key in (
            *_first_tokens(note, begins_with_token, "add_bos_token in --model_args"),
            *_templates(note, template, "--template"),
        )
    ]


def teacher_differences(folder: Path, template: str, begins_with_token: bool) -> list[str]:
    """How the prompts of a distillation differ from those that its teacher was trained with.

    Args:
        folder: of the teacher.
        template: of the data, as for `begins_with_token`.
    """
    note = _read(folder / FILE)
    return [
        f"WARNING: the teacher was trained with {trained}, but is asked with {now}; see {key}"
        for trained, now, key in (
            *_first_tokens(note, begins_with_token, "add_bos_token"),
            *_templates(note, template, "template"),
        )
    ]


def _first_tokens(note: dict[str, Any], now: bool, key: str) -> list[tuple[str, str, str]]:
    trained = note.get("add_bos_token")
    if not isinstance(trained, bool) or trained == now:
        return []
    return [(f"prompts {_first(trained)}", f"prompts {_first(now)}", key)]


def _templates(note: dict[str, Any], now: str, key: str) -> list[tuple[str, str, str]]:
    trained = note.get("template")
    if not isinstance(trained, str) or trained == now:
        return []
    return [(f"the template {trained[:80]!r}", f"{now[:80]!r}", key)]


def _first(begins_with_token: bool) -> str:
    return "that begin with a first token" if begins_with_token else "without a first token"


def _read(path: Path) -> dict[str, Any]:
    # It only leads to warnings, so a file that is not ours is ignored.
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if is_ours else {}
