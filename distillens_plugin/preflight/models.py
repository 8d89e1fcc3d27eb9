"""`--validate`, part two: models' configs, and layers, vocabularies and adapters against them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillens_plugin.lens.config_facts import PEFT_PREFIX, ModelFacts, facts_from_config
from distillens_plugin.lens.known_configs import known_facts
from distillens_plugin.lens.layers import check_measurable, resolve_pairs
from distillens_plugin.models.hub import Hub, UnreachableError, is_path
from distillens_plugin.models.tokenizers import check_vocabularies as compare_vocabularies
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.preflight.adapters import check_adapter_folder
from distillens_plugin.preflight.teacher_files import check_teacher_files
from distillens_plugin.preflight.text import check_text
from distillens_plugin.preflight.widths import check_widths
from distillens_plugin.recipe.schema.layers import LayerPairs
from distillens_plugin.recipe.schema.models import ModelSpec, StudentSpec, TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checkpoint_files import has_weights
from eval_harness.shared.model_folder.checks import check_model_folder
from eval_harness.shared.model_folder.config_files import read_config, read_generation_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AnySpec = TeacherSpec | StudentSpec


def check_model(recipe: Recipe, role: str, facts: dict[str, ModelFacts], hub: Hub) -> list[str]:
    """Checks one model; fills `facts` for it if its config is available."""
    key = f"models.{role}"
    spec = getattr(recipe.models, role)
    if spec is None:
        return []
    lines = []
    init = getattr(spec, "init", None)
    if init is not None and init.config is not None:
        try:
            facts[role] = _from_fields(init.config, peft=_wears_lora(spec))
        except DistillensError as error:
            raise DistillensError(f"{recipe.where(f'{key}.init.config')}: {error}") from error
        lines.append(f"ok {key}: {facts[role].num_layers} layers, random weights")
    elif init is not None:
        teacher = facts.get("teacher_model")
        if init.teacher is not None:
            try:
                teacher = _facts(spec.cut_source, recipe.where(f"{key}.init.teacher"), hub)
            except UnreachableError as error:
                return [f"skipped {key}.init.teacher, {init.teacher}, because {error}"]
        lines.append(_check_cut(recipe, key, init.from_teacher_layers, teacher))
        if teacher is not None:
            facts[role] = ModelFacts(
                num_layers=len(init.from_teacher_layers),
                width=teacher.width,
                vocab_size=teacher.vocab_size,
                tied=teacher.tied,
                blocks=(PEFT_PREFIX if _wears_lora(spec) else "") + teacher.blocks
                if teacher.blocks
                else None,
                num_positions=teacher.num_positions,
            )
    else:
        try:
            facts[role] = _facts(spec, recipe.where(f"{key}.name_or_path"), hub)
            lines.append(f"ok {key}: {spec.name_or_path}, {facts[role].num_layers} layers")
        except UnreachableError as error:
            lines.append(f"skipped {key}, {spec.name_or_path}, because {error}")
    if spec.adapter is not None:
        lines.append(_check_adapter(spec.adapter, key, recipe.where(f"{key}.adapter"), hub))
    return lines


def _wears_lora(spec: AnySpec) -> bool:
    """Trained as a PeftModel, on which module paths are longer; an adapter is merged in instead."""
    return getattr(spec, "lora", None) is not None


def _check_cut(recipe: Recipe, key: str, blocks: list[int], teacher: ModelFacts | None) -> str:
    if teacher is None:
        return f"skipped {key}.init.from_teacher_layers because the teacher's config is not known"
    if blocks[-1] >= teacher.num_layers:
        where = recipe.where(f"{key}.init.from_teacher_layers.{len(blocks) - 1}")
        raise DistillensError(
            f"{where}: found {blocks[-1]}, but the teacher has blocks 0 to {teacher.num_layers - 1}"
        )
    return f"ok {key}: {len(blocks)} of the teacher's {teacher.num_layers} blocks"


def _from_fields(fields: dict[str, Any], *, peft: bool) -> ModelFacts:
    """Of a recipe's `init.config`; builds the model only where that is needed."""
    facts = known_facts(fields, peft=peft)
    if facts is None:
        facts = facts_from_config(fields, peft=peft)
    return facts


def _without_torch(spec: AnySpec, where: str, hub: Hub) -> ModelFacts | None:
    """From config.json alone; None if the model must be built, which stored weights require too."""
    name = spec.name_or_path
    assert name is not None  # the schema: without one there is an init
    folder = Path(name)
    fields: Mapping[str, object] | None = None
    if not os.path.isdir(name):
        fields = None if is_path(name) else hub.config_fields(spec, where)
    try:
        if os.path.isdir(name) and not has_weights(folder):
            fields = read_config(folder)
            read_generation_config(folder)
        return None if fields is None else known_facts(fields, peft=_wears_lora(spec))
    except DistillensError as error:
        raise DistillensError(f"{where}: {error}") from error


def _facts(spec: AnySpec, where: str, hub: Hub) -> ModelFacts:
    """Layers, width and vocabulary from config.json: of a folder, the local cache, or the Hub."""
    facts = _without_torch(spec, where, hub)
    if facts is not None:
        return facts
    name = spec.name_or_path
    assert name is not None  # see above
    if os.path.isdir(name):
        try:
            folder = check_model_folder(
                Path(name), trust_remote_code=spec.trust_remote_code, must_have_weights=False
            )
        except DistillensError as error:
            raise DistillensError(f"{where}: {error}") from error
        config = folder.config
    else:
        if is_path(name):
            raise DistillensError(
                f"{where}: there is no folder {name}; expected one that save_pretrained wrote, or "
                "a model's name on the Hub"
            )
        config = hub.config(spec, where)
    try:
        return facts_from_config(
            config, peft=_wears_lora(spec), trust_remote_code=spec.trust_remote_code
        )
    except DistillensError as error:
        raise DistillensError(f"{where}: {error}") from error


def _check_adapter(adapter: str, key: str, where: str, hub: Hub) -> str:
    folder = Path(adapter)
    if os.path.isdir(adapter):
        check_adapter_folder(folder, where)
        return f"ok {key}.adapter: {adapter}"
    if is_path(adapter):
        raise DistillensError(
            f"{where}: there is no folder {adapter}; expected one that peft wrote"
        )
    try:
        hub.require("model", adapter, None, where)
    except UnreachableError as error:
        return f"skipped {key}.adapter, {adapter}, because {error}"
    return f"ok {key}.adapter: {adapter} is on the Hub"


def check_layers(recipe: Recipe, facts: dict[str, ModelFacts]) -> list[str]:
    """Layer numbers of each term that names some, against the models' depths."""
    sides = {"student": recipe.trained_role, "teacher": "teacher_model"}
    depths = {side: facts[role].num_layers for side, role in sides.items() if role in facts}
    missing = " and ".join(f"the {side}'s" for side in sides if side not in depths)
    lines = []
    for name, paired in recipe.layer_terms():
        key = f"train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.layers"
        if not depths or (missing and paired.layers.auto is not None):
            lines.append(f"skipped the layers of {name} because {missing} config is not known")
            continue
        if paired.layers.to_be_measured:
            lines.append(_to_be_measured(name, paired.layers, depths, recipe.where(key)))
            # Which of its layers are read is not known yet, but whose they are.
            lines += check_teacher_files(recipe, paired.teacher_files, [], facts, key)
            continue
        pairs = resolve_pairs(
            paired.layers.model_dump(exclude_none=True),
            depths.get("student", sys.maxsize),
            depths.get("teacher", sys.maxsize),
            where=recipe.where(key),
        )
        if getattr(paired, "projection", None) == "none":
            where = recipe.where(key.removesuffix("layers") + "projection")
            check_widths([facts.get(role) for role in sides.values()], pairs, where)
        ranges = ", ".join(f"{side} has 0 to {depth}" for side, depth in depths.items())
        lines.append(
            f"ok the layers of {name}: {' '.join(f'{a}-{b}' for a, b in pairs)} ({ranges})"
        )
        if missing:
            lines[-1] += f"; skipped {missing} range because its config is not known"
        layers = [layer for _, layer in pairs]
        lines += check_teacher_files(recipe, paired.teacher_files, layers, facts, key)
    return lines


def _to_be_measured(name: str, layers: LayerPairs, depths: dict[str, int], where: str) -> str:
    """The line on pairs that are chosen by divergence; refuses more than there can be."""
    student, teacher = depths["student"], depths["teacher"]
    check_measurable(layers.num_pairs, student, teacher, where)
    pairs = "1 pair" if layers.num_pairs == 1 else f"{layers.num_pairs} pairs"
    return (
        f"ok the layers of {name}: {pairs} by divergence, measured before "
        f"training on {layers.num_rows} rows, of layers 1-{student - 1} and 1-{teacher - 1}"
    )


def check_vocabularies(recipe: Recipe, facts: dict[str, ModelFacts], hub: Hub) -> list[str]:
    """Compares the sizes of the unembeddings, and the tokenizers if they can be loaded."""
    sizes = _vocabulary_sizes(recipe, facts)
    lines = []
    if len(sizes) == 2:
        shown = ", ".join(f"{role} {size}" for role, size in sizes.items())
        lines.append(f"ok vocabularies: {shown}; the first {min(sizes.values())} ids are compared")
    try:
        return lines + _check_tokenizers(recipe, sizes, hub)
    except UnreachableError as error:
        return [*lines, f"skipped the tokenizers because {error}"]


def _vocabulary_sizes(recipe: Recipe, facts: dict[str, ModelFacts]) -> dict[str, int]:
    """Of the models whose size is known; a random model without vocab_size gets the tokenizer's."""
    init = recipe.models.trained.init
    open_size = init is not None and init.config is not None and "vocab_size" not in init.config
    return {
        role: found.vocab_size
        for role, found in facts.items()
        if not (open_size and role == recipe.trained_role)
    }


def _check_tokenizers(recipe: Recipe, sizes: dict[str, int], hub: Hub) -> list[str]:
    name = recipe.models.tokenizer_name
    tokenizer = _tokenizer(
        name, recipe.models.trained, recipe.where(f"models.{recipe.trained_role}"), hub
    )
    lines = [f"ok tokenizer: {name}, {len(tokenizer)} ids"]
    for role, size in sizes.items():
        if size < len(tokenizer):
            raise DistillensError(
                f"{recipe.where(f'models.{role}')}: its vocabulary has {size} ids, but the "
                f"tokenizer {name} has {len(tokenizer)}; use the model's own tokenizer"
            )
    teacher, teachers = recipe.models.teacher_model, None
    # Before the teacher's tokenizer is looked up, which may be unreachable.
    text = check_text(recipe, tokenizer, None)
    if teacher is not None and teacher.tokenizer_name != name:
        try:
            teachers = _tokenizer(
                teacher.tokenizer_name, teacher, recipe.where("models.teacher_model"), hub
            )
            common = compare_vocabularies(teachers, tokenizer)
        except DistillensError as error:
            raise DistillensError(f"{recipe.where('models')}: {error}") from None
        lines.append(f"ok tokenizers: {common} common ids, each the same token in both")
        text = check_text(recipe, tokenizer, teachers)
    return lines + text


def _tokenizer(name: str, spec: ModelSpec, where: str, hub: Hub) -> "PreTrainedTokenizerBase":

    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "tokenizer_config.json")):
            raise UnreachableError(f"{name} holds no tokenizer_config.json")
    elif not is_path(name):
        hub.require_tokenizer(name, spec.revision, where)
    try:
        return load_tokenizer(
            name, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except DistillensError as error:
        raise DistillensError(f"{where}: {error}") from error
