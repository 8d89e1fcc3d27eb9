"""What --systems names: model folders, Hub names, adapters, and mappings that say more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.argument_types import folder_of
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.program.key_values import check_names_are_texts
from eval_harness.shared.shortened import shortened

# Keys of a mapping beside those of --model_args.
_PLACES = ("output_path", "working_folder")
_MAX_CONFIG_BYTES = 10_000_000
System = str | Mapping[str, Any]


@dataclass(frozen=True)
class SystemEntry:
    """One system of several.

    Attributes:
        model_args: all of them.
        output_path: of its results.
        working_folder: where its paths count from; None: this process's own.
    """

    model_args: dict[str, Any]
    output_path: Path
    working_folder: Path | None = None


def system_entries(
    systems: Sequence[System], *, model_args: Mapping[str, Any], output_path: Path | None
) -> list[SystemEntry]:
    """The systems, each with what it has in common with the others.

    Args:
        systems: at least one name, or mapping of `pretrained`, `output_path`, `working_folder`
            (from which both of these count) and any other of --model_args.
        model_args: of all; `pretrained` among them is the base of adapters.
        output_path: of those that name none.
    Raises:
        DistillensError: a system is of another kind, or lacks its model or a place for its results.
    """
    if not systems:
        raise DistillensError("--systems: found no system, expected at least one")
    entries = [_entry(system, dict(model_args), output_path) for system in systems]
    base = model_args.get("pretrained")
    if base is not None and not any("peft" in entry.model_args for entry in entries):
        raise DistillensError(
            f"--model_args pretrained={base}: --systems names the models; drop it (it is the base "
            "of adapters, and none of them is one)"
        )
    return entries


def _entry(system: System, common: dict[str, Any], output_path: Path | None) -> SystemEntry:
    own = _adapter_or_model(system, common) if isinstance(system, str) else dict(system)
    name = own.get("peft", own.get("pretrained"))
    where = f"--systems {shortened(str(name or system))}"
    for key in (*_PLACES, "pretrained"):
        if key in own and not isinstance(own[key], str):
            raise DistillensError(f"{where}: {key} = {own[key]!r}, expected a text")
    if "output_path" in own:
        folder_of(own["output_path"], f"{where}: output_path")  # refuses ""
    places = {key: Path(own.pop(key)) for key in _PLACES if key in own}
    check_names_are_texts(own, flag=where)
    if "pretrained" not in own and "peft" not in own:
        raise DistillensError(f"{where}: no pretrained, expected a model folder or Hub name")
    working_folder, path = places.get("working_folder"), places.get("output_path")
    if path is None and output_path is None:
        raise DistillensError(f"{where}: no output_path, and no --output_path for all of them")
    if path is not None and working_folder is not None:
        path = working_folder / path
    chosen = path or output_path
    assert chosen is not None
    return SystemEntry({**common, **own}, chosen, working_folder)


def _adapter_or_model(name: str, common: dict[str, Any]) -> dict[str, Any]:
    """A folder with an adapter's config and no model's is an adapter, on the base that it names."""
    folder = Path(name)
    config = folder / "adapter_config.json"
    if not config.is_file() or (folder / "config.json").is_file():
        return {"pretrained": name}
    base = common.get("pretrained")
    if base is None:
        base = read_json_object(config, max_bytes=_MAX_CONFIG_BYTES).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DistillensError(
            f"{config}: base_model_name_or_path = {base!r}, expected the base's folder or Hub "
            "name; give it as --model_args pretrained=..."
        )
    return {"pretrained": base, "peft": name}
