"""manifest.json: size and SHA-256 of every file in a folder, so damage is found before use.

The manifest covers itself too: its form is canonical, and it holds its own SHA-256.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_manifest(folder: Path, form: str) -> None:
    """Writes the manifest of a folder; call it when all else is written.

    Args:
        form: name and version of what the files mean, for `find_damage`.
    Raises:
        OSError: a file cannot be read, or the manifest cannot be written.
    """
    files = {name: _describe(folder / name) for name in _names(folder)}
    (folder / MANIFEST).write_text(_encode(form, files), encoding="utf-8")


def find_damage(folder: Path, form: str) -> str | None:
    """What is wrong with a folder that has a manifest; None if nothing is.

    Reads every byte.

    Returns:
        The file and what was found, such as `model.safetensors has 100 bytes, expected 8,112`.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode("utf-8")
        manifest = json.loads(text)
        found, expected = manifest["form"], manifest["files"]
        if _encode(found, expected) != text:
            return f"{MANIFEST} is damaged"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} is damaged"
    if found != form:
        return f"{MANIFEST} has the form {found!r}, expected {form!r}"
    for name, wanted in expected.items():
        try:
            problem = _compare(folder / name, wanted)
        except OSError as error:
            problem = "is missing" if not (folder / name).exists() else f"cannot be read ({error})"
        except (KeyError, TypeError, ValueError):
            return f"{MANIFEST} is damaged"
        if problem is not None:
            return f"{name} {problem}"
    foreign = sorted(set(_names(folder)) - set(expected))
    return f"{foreign[0]} does not belong there" if foreign else None


def _compare(path: Path, wanted: dict[str, Any]) -> str | None:
    num_bytes = path.stat().st_size
    if num_bytes != wanted["bytes"]:
        return f"has {num_bytes:,} bytes, expected {wanted['bytes']:,}"
    if _describe(path)["sha256"] != wanted["sha256"]:
        return "has been changed or damaged (its SHA-256 differs)"
    return None


def _describe(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _names(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() and path != folder / MANIFEST
    )


def _encode(form: str, files: dict[str, Any]) -> str:
    content = json.dumps({"form": form, "files": files}, sort_keys=True)
    vouched = {"form": form, "files": files, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    return json.dumps(vouched, indent=1) + "\n"
