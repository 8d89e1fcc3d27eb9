"""`--validate`, adapters: LoRA on an empty model of the student's config, and adapters' files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.lens.config_facts import read_config
from distillens_plugin.models.hub import Hub, UnreachableError
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.model_folder.checks import check_model_folder
from eval_harness.shared.model_folder.shapes import empty_model
from eval_harness.shared.program.one_line import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_MAX_CONFIG_BYTES = 10_000_000
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def check_lora(recipe: Recipe, hub: Hub) -> list[str]:
    """Checks on the meta device that LoRA finds the modules that it should adapt.

    Raises:
        DistillensError: target_modules match nothing, or modules that peft cannot adapt.
    """
    spec = recipe.models.trained
    if spec.lora is None:
        return []
    key = f"models.{recipe.trained_role}.lora"
    try:
        config = _config(recipe, hub)
    except UnreachableError as error:
        return [f"skipped {key} because {error}"]
    import torch

    from distillens_plugin.models.adapters import add_lora

    trusted = recipe.models.trusts_trained_code
    model = empty_model(config, trust_remote_code=trusted)
    with torch.device("meta"):
        adapted = add_lora(model, spec.lora, where=recipe.where(key))
    num_modules = sum(hasattr(module, "base_layer") for module in adapted.modules())
    num_trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return [f"ok {key}: on {num_modules} modules, {num_trained:,} parameters"]


def _config(recipe: Recipe, hub: Hub) -> "PretrainedConfig":
    """The student's config, or that of the model it is cut from, which has the same modules."""
    trained, teacher = recipe.models.trained, recipe.models.teacher_model
    spec: TeacherSpec | StudentSpec = trained
    if trained.init is not None and trained.init.config is not None:
        return read_config(trained.init.config)
    if trained.init is not None and trained.init.teacher is not None:
        spec = trained.cut_source
    elif trained.init is not None:
        assert teacher is not None  # the schema: it is cut from one
        spec = teacher
    assert spec.name_or_path is not None  # the schema: there is no init
    if os.path.isdir(spec.name_or_path):
        folder = Path(spec.name_or_path)
        return check_model_folder(
            folder, trust_remote_code=spec.trust_remote_code, must_have_weights=False
        ).config
    where = recipe.where("models")
    hub.config_fields(spec, where)  # raises if it is unreachable, before torch is loaded
    return hub.config(spec, where)


def check_adapter_folder(folder: Path, where: str) -> None:
    """Refuses a folder that holds no adapter, or one that cannot be merged into its model.

    Args:
        where: the recipe's key, for the line.
    Raises:
        DistillensError: names the file.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise DistillensError(
            f"{where}: {folder} has no adapter_config.json; expected a folder that peft wrote"
        )
    try:
        kind = read_json_object(file, max_bytes=_MAX_CONFIG_BYTES)["peft_type"]
    except (DistillensError, KeyError) as error:
        raise DistillensError(
            f"{where}: {file} cannot be read ({one_line(str(error))}); expected what peft wrote, "
            "with a peft_type such as LORA"
        ) from error
    from distillens_plugin.models.adapters import import_peft

    peft = import_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(name.value): made for name, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if not isinstance(kind, str) or kind not in known:
        raise DistillensError(
            f"{where}: {file}: peft_type: found {str(kind)[:60]!r}, which peft does not know; "
            "expected one such as LORA"
        )
    if issubclass(known[kind], peft.PromptLearningConfig):
        raise DistillensError(
            f"{where}: {file}: peft_type: found {kind}, which cannot be merged into the weights; "
            "expected one such as LORA"
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise DistillensError(
            f"{where}: {folder} has no {_WEIGHTS[0]}; expected all files that peft wrote; copy the "
            "folder again"
        )
