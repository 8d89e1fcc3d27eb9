"""Existing weights: a causal LM from a folder or the Hub.

Files are checked before they are loaded, so that errors name a broken file, and files that do not
belong together are refused.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checks import check_model_folder
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.identity import model_folder
from eval_harness.shared.model_folder.loaded_weights import check_loaded
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, check_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(spec: TeacherSpec | StudentSpec, *, where: str) -> PreTrainedModel:
    """A causal LM from a folder or the Hub; refuses weights that do not fill the architecture.

    Args:
        spec: a model section of the recipe, with `name_or_path`.
        where: the section's YAML path, for errors.
    Raises:
        DistillensError: not found, broken files, not a causal LM, or parameters are missing from
            the weights; names the file.
    """
    name = spec.name_or_path
    assert name is not None  # the caller has checked
    key = f"{where}.name_or_path"
    folder = _folder(name, spec.revision, key)
    check_folder(folder, trusted=spec.trust_remote_code, flag=RECIPE_FLAG)
    try:
        checked = check_model_folder(folder, trust_remote_code=spec.trust_remote_code)
        with foreign_errors(f"{folder / 'generation_config.json'}: cannot be read"):
            GenerationConfig.from_dict(checked.generation)
        with foreign_errors(f"{folder}: the model does not load"):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=DTYPES[spec.dtype],
                attn_implementation=spec.attn_implementation,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
                weights_only=True,
            )
        check_loaded(model, report, folder)
    except DistillensError as error:
        raise DistillensError(f"{key}: cannot load {name!r}: {error}") from error
    # A model of the Hub keeps its name rather than the path of its local copy.
    model.name_or_path = model.config.name_or_path = name
    return model


def _folder(name: str, revision: str | None, where: str) -> Path:
    try:
        return model_folder(name, revision)
    except DistillensError as error:
        raise DistillensError(
            f"{where}: cannot load {name!r} ({error}); expected a folder that save_pretrained "
            "wrote or a model on the Hub"
        ) from error
