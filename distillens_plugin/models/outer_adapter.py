"""The part of a peft adapter that lies outside a model's blocks: on its norm, head, embeddings."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from distillens_plugin.models.adapters import first_line, import_peft, merge_adapter
from distillens_plugin.models.merging import say_untied
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError

_PEFT_PREFIX = "base_model.model."


def merge_outer_adapter(
    model: PreTrainedModel, spec: TeacherSpec, *, blocks: str, where: str
) -> PreTrainedModel:
    """The model with only that part merged in; the model itself if the adapter has none.

    Args:
        model: with at least one block, which stays as it is.
        blocks: path of the list of blocks.
        where: the section's YAML path, for errors.
    Raises:
        DistillensError: the adapter is missing or damaged, or cannot be merged.
    """
    peft = import_peft()
    assert spec.adapter is not None  # the caller has checked
    try:
        weights = peft.utils.load_peft_weights(spec.adapter, device="cpu")
        config = peft.PeftConfig.from_pretrained(spec.adapter)
    except Exception as error:  # whatever peft raises on damaged files
        raise DistillensError(
            f"{where}.adapter: cannot load {spec.adapter!r} ({first_line(error)}); expected a "
            "folder or a Hub name of an adapter for this model, with adapter_config.json"
        ) from error
    outer = {
        name: tensor
        for name, tensor in weights.items()
        if not name.removeprefix(_PEFT_PREFIX).startswith(f"{blocks}.")
    }
    if not outer:
        return model
    model = _put_in_place(model, outer, config.modules_to_save or [])
    adapted = sorted({_module(name) for name in outer if _is_lora(name)})
    if not adapted:
        return model
    # Patterns and layer numbers of the adapter match modules that are not here.
    config.target_modules = adapted
    config.layers_to_transform = config.layers_pattern = config.modules_to_save = None
    with tempfile.TemporaryDirectory(prefix="distillens-adapter-") as folder:
        config.save_pretrained(folder)
        _save(outer, Path(folder))
        return merge_adapter(model, spec.model_copy(update={"adapter": folder}), where=where)


def _put_in_place(
    model: PreTrainedModel, outer: Mapping[str, Tensor], names: Sequence[str]
) -> PreTrainedModel:
    """Modules that the adapter holds whole (modules_to_save) replace the model's own."""
    for path in sorted({_module(name) for name in outer if not _is_lora(name)}):
        if path.rpartition(".")[2] not in {name.rpartition(".")[2] for name in names}:
            continue
        # A copy: the other of two tied modules keeps what it has.
        module = copy.deepcopy(model.get_submodule(path))
        start = f"{_PEFT_PREFIX}{path}."
        held = {n.removeprefix(start): t for n, t in outer.items() if n.startswith(start)}
        module.load_state_dict(held)
        model.set_submodule(path, module)
    say_untied(model)
    return model


def _module(name: str) -> str:
    """The module path that a weight of an adapter belongs to."""
    path = name.removeprefix(_PEFT_PREFIX)
    start = path.find(".lora_")
    return path[:start] if start >= 0 else path.rpartition(".")[0]


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _save(weights: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "adapter_model.safetensors")
