"""Existing weights: a causal LM from a folder or the Hub.

Files are checked before they are loaded, so that errors name a broken file, and files that do not
belong together are refused.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checks import CheckedFolder, check_model_folder
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.identity import model_folder
from eval_harness.shared.model_folder.loaded_weights import check_loaded
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, check_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(
    spec: TeacherSpec | StudentSpec,
    *,
    where: str,
    shape: Callable[[CheckedFolder], PretrainedConfig] | None = None,
    device_map: str | None = None,
) -> PreTrainedModel:
    """A causal LM from a folder or the Hub; refuses weights that do not fill the architecture.

    Args:
        spec: a model section of the recipe, with `name_or_path`.
        where: the section's YAML path, for errors.
        shape: gives the config to load in place of the folder's own, such as one with fewer blocks;
            tensors that it has no place for are then no news.
        device_map: accelerate's, such as `auto`; None loads to the CPU.
    Raises:
        DistillensError: not found, broken files, not a causal LM, or parameters are missing from
            the weights; names the file.
    """
    name = spec.name_or_path
    folder, checked = checked_folder(spec, where=where)
    more = {} if shape is None else {"config": shape(checked)}
    if device_map is not None:
        more["device_map"] = device_map
    try:
        with foreign_errors(f"{folder}: the model does not load"):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=DTYPES[spec.dtype],
                attn_implementation=spec.attn_implementation,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
                weights_only=True,
                **more,
            )
        if shape is not None:
            report["unexpected_keys"] = []
        check_loaded(model, report, folder)
    except DistillensError as error:
        raise _cannot_load(spec, where, error) from error
    # A model of the Hub keeps its name rather than the path of its local copy.
    model.name_or_path = model.config.name_or_path = name
    return model


def checked_folder(spec: TeacherSpec | StudentSpec, *, where: str) -> tuple[Path, CheckedFolder]:
    """A model's folder (of the Hub: its local copy) and what its files describe, without weights.

    Raises:
        DistillensError: as `load_pretrained` does.
    """
    assert spec.name_or_path is not None  # the caller has checked
    folder = _folder(spec.name_or_path, spec.revision, f"{where}.name_or_path")
    check_folder(folder, trusted=spec.trust_remote_code, flag=RECIPE_FLAG)
    try:
        checked = check_model_folder(folder, trust_remote_code=spec.trust_remote_code)
        with foreign_errors(f"{folder / 'generation_config.json'}: cannot be read"):
            GenerationConfig.from_dict(checked.generation)
    except DistillensError as error:
        raise _cannot_load(spec, where, error) from error
    return folder, checked


def _cannot_load(
    spec: TeacherSpec | StudentSpec, where: str, error: DistillensError
) -> DistillensError:
    return DistillensError(f"{where}.name_or_path: cannot load {spec.name_or_path!r}: {error}")


def _folder(name: str, revision: str | None, where: str) -> Path:
    try:
        return model_folder(name, revision)
    except DistillensError as error:
        raise DistillensError(
            f"{where}: cannot load {name!r} ({error}); expected a folder that save_pretrained "
            "wrote or a model on the Hub"
        ) from error
