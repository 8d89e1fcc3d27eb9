"""A model folder checked as a whole before its weights are read.

Config, weight files, shapes and adapter are compared on the meta device, which takes no memory, so
that files that do not belong together are refused within seconds.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import numbers, read_json_object, shown
from eval_harness.shared.model_folder.adapter_patterns import check_patterns
from eval_harness.shared.model_folder.checkpoint_files import (
    has_weights,
    pickled_tensors,
    stored_tensors,
)
from eval_harness.shared.model_folder.config_files import read_config, read_generation_config
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.safetensors_header import read_header
from eval_harness.shared.model_folder.shapes import check_shapes, empty_model, vocabulary_rows

_MAX_ADAPTER_CONFIG_BYTES = 10_000_000
_MAX_RANK = 10_000


@dataclass(frozen=True)
class CheckedFolder:
    """What the files of a model folder describe.

    Attributes:
        config: a transformers config.
        generation: fields of generation_config.json; empty if there is none.
        model: on the meta device; None if transformers cannot build it and need not.
        num_ids: rows of the input embedding; None if unknown.
    """

    config: Any
    generation: dict[str, Any]
    model: Any | None
    num_ids: int | None


def check_model_folder(
    folder: Path,
    *,
    adapter: Path | None = None,
    trust_remote_code: bool = False,
    must_build: bool = True,
    must_have_weights: bool = True,
) -> CheckedFolder:
    """Reads a folder's config and the headers of its weights, and compares them.

    Args:
        folder: a local folder, or a downloaded snapshot.
        adapter: a peft adapter's folder.
        trust_remote_code: the model's own code may run; its shapes are then not compared.
        must_build: refuse what transformers cannot build (vLLM has models of its own).
        must_have_weights: refuse a folder without weights; existing ones are checked either way.
    Raises:
        DistillensError: one line that names the file, what is wrong and what was expected.
    """
    from transformers import AutoConfig

    fields = read_config(folder)
    generation = read_generation_config(folder)
    named = fields.get("transformers_weights")
    stored = stored_tensors(folder, named) if must_have_weights or has_weights(folder) else None
    with foreign_errors(f"{folder / 'config.json'}: the configuration cannot be read"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    own_code = trust_remote_code and "auto_map" in fields
    model = None if own_code else _build(folder, config, must_build)
    if model is not None and stored is not None:
        check_shapes(folder, model, stored)
    num_ids = vocabulary_rows(model) if model is not None else None
    if adapter is not None:
        # vLLM places adapters by itself and refuses unknown modules, so it needs no peft. Without
        # peft nothing can be compared here.
        without_peft = not must_build and find_spec("peft") is None
        check_adapter_fits(adapter, None if without_peft else model)
    return CheckedFolder(config, generation, model, num_ids)


def _build(folder: Path, config: Any, must_build: bool) -> Any | None:
    try:
        return empty_model(config)
    except DistillensError as error:
        if not must_build:
            return None
        raise DistillensError(f"{folder / 'config.json'}: {error}") from error


def check_adapter_fits(folder: Path, model: Any | None) -> None:
    """Refuses a peft adapter that does not fit a model: peft would drop what it cannot place.

    Args:
        folder: with adapter_config.json and the adapter's weights.
        model: on the meta device, modified here; None: nothing is compared.
    Raises:
        DistillensError: unreadable, or tensors are missing, left over, or of another shape.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise DistillensError(
            f"{folder}: no adapter_config.json, expected a folder that peft wrote"
        )
    fields = read_json_object(path, max_bytes=_MAX_ADAPTER_CONFIG_BYTES)
    kind = fields.get("peft_type")
    if not isinstance(kind, str):
        raise DistillensError(f"{path}: peft_type = {shown(kind)}, expected a text such as 'LORA'")
    ranks = {"r": fields.get("r"), "rank_pattern": fields.get("rank_pattern")}
    for place, _, value in numbers(ranks):
        if not 0 < value <= _MAX_RANK or not isinstance(value, int):
            raise DistillensError(
                f"{path}: {place} = {shown(value)}, expected a rank from 1 to {_MAX_RANK}"
            )
    weights, shapes = _adapter_shapes(folder)
    if model is not None:
        check_patterns(fields, [name for name, _ in model.named_modules()], str(path))
        _compare_adapter(path, weights, shapes, model)


def _adapter_shapes(folder: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    path = folder / "adapter_model.safetensors"
    if path.exists():
        return path, {name: tensor.shape for name, tensor in read_header(path).items()}
    path = folder / "adapter_model.bin"
    if not path.exists():
        raise DistillensError(
            f"{folder}: no adapter_model.safetensors, expected a folder that peft wrote"
        )
    return path, {name: tensor.shape for name, tensor in pickled_tensors(path).items()}


def _compare_adapter(
    config_path: Path, weights: Path, shapes: dict[str, tuple[int, ...]], model: Any
) -> None:
    try:
        import peft
    except ImportError as error:
        raise DistillensError(
            'adapters need the package peft; run pip install -e ".[peft]" in a clone'
        ) from error
    with foreign_errors(f"{config_path}: peft cannot make this adapter for {type(model).__name__}"):
        config = peft.PeftConfig.from_pretrained(str(config_path.parent))
        # Some initialisations decompose the base's weights, and here there are none.
        config.init_lora_weights = False
        wrapped = peft.get_peft_model(model, config)
        expected = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    known = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    whole = {name: tuple(tensor.shape) for name, tensor in wrapped.state_dict().items()}
    todo = f"the adapter was not trained on {type(model).__name__} with this config"
    for name, shape in sorted(shapes.items()):
        own = known.get(name, whole.get(name))
        if own is None:
            raise DistillensError(f"{weights}: the model has no place for {name}; {todo}")
        if own != shape:
            raise DistillensError(
                f"{weights}: {name} has shape {list(shape)}, expected {list(own)}; {todo}"
            )
    if missing := sorted(known.keys() - shapes.keys()):
        raise DistillensError(
            f"{weights}: {len(missing)} tensors of adapter_config.json are missing, first "
            f"{missing[0]}; they would stay random"
        )
