"""The part of a peft adapter that lies outside a model's blocks: on its norm, head, embeddings."""

import tempfile
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from distillens_plugin.models.adapters import first_line, import_peft, merge_adapter
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
    adapted = sorted({_module(name) for name in outer if _is_lora(name)})
    saved = sorted({_module(name) for name in outer if not _is_lora(name)})
    # Patterns and layer numbers of the adapter match modules that are not here.
    config.target_modules = adapted
    config.layers_to_transform = config.layers_pattern = None
    config.modules_to_save = [name for name in saved if name not in adapted] or None
    with tempfile.TemporaryDirectory(prefix="distillens-adapter-") as folder:
        config.save_pretrained(folder)
        _save(outer, Path(folder))
        return merge_adapter(model, spec.model_copy(update={"adapter": folder}), where=where)


def _module(name: str) -> str:
    """The module path that a weight of an adapter belongs to."""
    path = name.removeprefix(_PEFT_PREFIX)
    start = path.find(".lora_")
    return path[:start] if start >= 0 else path.rpartition(".")[0]


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "adapter_model.safetensors")
