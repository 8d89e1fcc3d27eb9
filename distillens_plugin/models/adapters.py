"""peft adapters: those being trained, and those that come with a model and are merged in."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel

from distillens_plugin.models.merging import merge, quiet_peft
from distillens_plugin.recipe.schema.models import Lora, ModelSpec, StudentSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.adapter_patterns import check_patterns
from eval_harness.shared.model_folder.checks import check_adapter_fits
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, check_adapter

if TYPE_CHECKING:
    from peft import PeftModel

# What the names of an adapter's own weights hold.
_OWN = ("lora_", "modules_to_save")


def add_lora(model: PreTrainedModel, lora: Lora, *, where: str) -> "PeftModel":
    """The model as a PeftModel with LoRA, everything else frozen.

    Args:
        where: its YAML path, for errors.
    Raises:
        DistillensError: target_modules match nothing, or modules that peft cannot adapt.
    """
    peft = import_peft()
    names = [name for name, _ in model.named_modules()]
    check_patterns({"target_modules": lora.target_modules}, names, where)
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with quiet_peft():
            return peft.get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise DistillensError(
            f"{where}.target_modules: found {lora.target_modules!r} ({first_line(error)}); "
            "expected names of this model's linear or embedding modules, such as q_proj, "
            "all-linear, or a regular expression of module paths"
        ) from error


def name_base(model: "PeftModel", spec: StudentSpec) -> None:
    """Records in the trained adapter the weights that it belongs to, if they have a name.

    An adapter on top of another, or on a student without weights of its own, belongs to weights
    that exist only in the merged model.

    Args:
        model: as trained.
        spec: the student's section of the recipe.
    """
    config = model.peft_config["default"]
    named = spec.init is None and spec.adapter is None
    config.base_model_name_or_path = spec.name_or_path if named else None
    config.revision = spec.revision if named else None


def has_base(model: "PeftModel") -> bool:
    """Whether a PeftModel's adapter names the weights that it belongs to."""
    return model.peft_config["default"].base_model_name_or_path is not None


def merge_adapter(model: PreTrainedModel, spec: ModelSpec, *, where: str) -> PreTrainedModel:
    """The model with the adapter that its section names merged in; trainable as it was before.

    Raises:
        DistillensError: the adapter is missing, belongs to another model, or cannot be merged.
    """
    peft = import_peft()
    before = {
        name: (parameter.requires_grad, parameter.dtype)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    here = f"{where}.adapter"
    assert spec.adapter is not None  # the caller has checked
    try:
        if os.path.isdir(spec.adapter):
            check_adapter_fits(Path(spec.adapter), None)
        config = peft.PeftConfig.from_pretrained(spec.adapter)
        fields = {**config.to_dict(), "peft_type": getattr(config.peft_type, "value", None)}
        known = f"{here} {spec.adapter}"
        check_adapter(fields, known, trusted=spec.trust_remote_code, flag=RECIPE_FLAG)
        check_patterns(fields, [name for name, _ in model.named_modules()], "adapter_config.json")
        with quiet_peft():
            adapted = peft.PeftModel.from_pretrained(model, spec.adapter, config=config)
        _check_names(adapted, peft.utils.load_peft_weights(spec.adapter, device="cpu"))
        plain = merge(adapted)
    except DistillensError as error:
        raise DistillensError(f"{here}: {spec.adapter!r}: {error}") from error
    except Exception as error:  # whatever peft raises on damaged files
        raise DistillensError(
            f"{here}: cannot load {spec.adapter!r} ({first_line(error)}); expected a folder or a "
            "Hub name of an adapter for this model, with adapter_config.json"
        ) from error
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        # peft freezes the base, and computes in float32.
        trainable, dtype = before[name]
        parameter.requires_grad_(trainable)
        parameter.data = parameter.data.to(dtype)
    return plain


def _check_names(adapted: "PeftModel", given: Mapping[str, Tensor]) -> None:
    """Refuses an adapter that has weights for other modules than it is put on."""
    peft = import_peft()
    needed = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    missing = sorted(name for name in needed - set(given) if _is_own(name))
    unused = sorted(name for name in set(given) - needed if _is_own(name))
    for names, what in ((missing, "lacks"), (unused, "has no place for")):
        if names:
            who = "the adapter" if names is missing else "the model"
            raise DistillensError(
                f"{who} {what} {len(names)} of the adapter's weights, the first is {names[0]}; is "
                "it an adapter of another model?"
            )


def _is_own(name: str) -> bool:
    return any(part in name for part in _OWN)


def import_peft() -> ModuleType:
    """peft, which is an extra.

    Raises:
        DistillensError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise DistillensError("LoRA and other adapters need peft: pip install peft") from error
    return peft


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
