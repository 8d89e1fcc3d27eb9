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
    """What differs from training, one line each; none if the folder has no such file."""
    note = _read(folder / FILE)
    lines = []
    trained, now = note.get("add_bos_token"), begins_with_token
    if isinstance(trained, bool) and trained != now:
        lines.append(
            f"the model was trained with prompts {_first(trained)}, but is evaluated with prompts "
            f"{_first(now)}; see add_bos_token in --model_args"
        )
    trained_template = note.get("template")
    if isinstance(trained_template, str) and trained_template != template:
        lines.append(
            f"the model was trained with the template {trained_template[:80]!r}, but is evaluated "
            f"with {template[:80]!r}; see --template"
        )
    return lines


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
