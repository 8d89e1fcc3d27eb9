"""Builds the teacher and the student that a recipe names."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distillens_plugin.architectures import find_anatomy
from eval_harness.errors import DistillensError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(spec: Any, *, where: str) -> PreTrainedModel:
    """A causal LM from a folder or the Hub; refuses weights that do not fill the architecture.

    Args:
        spec: a model section of the recipe (schema.ModelSpec) with `name_or_path`.
        where: the section's YAML path, for errors.
    Raises:
        DistillensError: not found, not a causal LM, or parameters are missing from the weights.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            spec.name_or_path,
            revision=spec.revision,
            dtype=DTYPES[spec.dtype],
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise DistillensError(
            f"{where}.name_or_path: cannot load {spec.name_or_path!r} "
            f"({_first_line(error)}); expected "
            "a folder that save_pretrained wrote or a model on the Hub"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise DistillensError(
            f"{where}.name_or_path: {spec.name_or_path!r} lacks {len(missing)} parameters of "
            f"{type(model).__name__}, the first is {missing[0]}; they would be left random"
        )
    return model


def load_teacher(spec: Any, *, where: str = "models.teacher_model") -> PreTrainedModel:
    """The teacher, with its adapter merged in, frozen and in eval mode."""
    model = load_pretrained(spec, where=where)
    if spec.adapter is not None:
        model = _merge_adapter(model, spec.adapter, where=where)
    return model.requires_grad_(False).eval()


def load_student(
    spec: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None,
    where: str = "models.student_model",
) -> PreTrainedModel:
    """The student: pretrained, cut from the teacher, or random from a config; with LoRA if asked
    for.
    """
    if spec.init is None:
        model = load_pretrained(spec, where=where)
        if spec.adapter is not None:
            model = _merge_adapter(model, spec.adapter, where=where)
    elif spec.init.from_teacher_layers is not None:
        source = teacher
        if spec.init.teacher is not None:
            source = load_pretrained(spec.cut_source, where=f"{where}.init.teacher")
        if source is None:
            raise DistillensError(f"{where}.init.from_teacher_layers: there is no teacher_model")
        model = cut_from_teacher(
            source,
            spec.init.from_teacher_layers,
            where=where,
            attn_implementation=spec.attn_implementation,
        ).to(DTYPES[spec.dtype])
    else:
        model = _from_config(spec, tokenizer, where=where).to(DTYPES[spec.dtype])
    set_special_tokens(model, tokenizer)
    if spec.gradient_checkpointing:
        # The re-entrant form runs hooks under no_grad: a lens would see no gradient.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.lora is not None:
        model = _add_lora(model, spec.lora)
    return model


def set_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives configuration and generation settings the tokenizer's end and padding tokens."""
    for settings in (model.config, model.generation_config):
        if settings is not None:
            settings.pad_token_id = tokenizer.pad_token_id
            if settings.eos_token_id is None:
                settings.eos_token_id = tokenizer.eos_token_id


def _from_config(spec: Any, tokenizer: PreTrainedTokenizerBase, *, where: str) -> PreTrainedModel:
    settings = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **spec.init.config,
    }
    try:
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings),
            attn_implementation=spec.attn_implementation,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DistillensError(f"{where}.init.config: {_first_line(error)}") from error


def cut_from_teacher(
    teacher: PreTrainedModel,
    layers: list[int],
    *,
    where: str,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A shallower model with the teacher's own weights: blocks `layers` (0-based), all else as it
    is.

    Args:
        teacher: a causal LM.
        layers: which of its blocks to keep, in order; each in [0, num_layers - 1].
        attn_implementation: None is the teacher's own.
    Raises:
        DistillensError: a block is out of range.
    """
    anatomy = find_anatomy(teacher)
    for index, layer in enumerate(layers):
        if not 0 <= layer < anatomy.num_layers:
            raise DistillensError(
                f"{where}.init.from_teacher_layers[{index}] = {layer}, but the teacher has "
                "blocks 0 "
                f"to {anatomy.num_layers - 1}"
            )
    config = type(teacher.config).from_dict(_shallower(teacher.config, layers))
    student = AutoModelForCausalLM.from_config(
        config, attn_implementation=attn_implementation or teacher.config._attn_implementation
    )
    kept = {old: new for new, old in enumerate(layers)}
    prefix = anatomy.blocks + "."
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix):
            number, rest = name[len(prefix) :].split(".", 1)
            if int(number) not in kept:
                continue
            # A block kept twice would need its tensor under both names; lists hold distinct blocks.
            name = f"{prefix}{kept[int(number)]}.{rest}"
        weights[name] = tensor
    student.load_state_dict(weights, strict=True)
    if teacher.generation_config is not None:
        student.generation_config = GenerationConfig.from_dict(teacher.generation_config.to_dict())
    return student


def _shallower(config: Any, layers: list[int]) -> dict[str, Any]:
    """A configuration with these blocks only: their number, and lists with one entry a block."""
    num_layers = config.num_hidden_layers
    cut = {
        key: [value[layer] for layer in layers]
        if isinstance(value, list) and len(value) == num_layers
        else value
        for key, value in config.to_dict().items()
    }
    # GPT-2 and its like have a name of their own for it.
    cut[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    return cut


def _add_lora(model: PreTrainedModel, lora: Any) -> PreTrainedModel:
    peft = _import_peft()
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        ),
    )


def _merge_adapter(model: PreTrainedModel, adapter: str, *, where: str) -> PreTrainedModel:
    peft = _import_peft()
    try:
        return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError) as error:
        raise DistillensError(
            f"{where}.adapter: cannot load {adapter!r} ({_first_line(error)}); expected a "
            "folder or a "
            "Hub name with adapter_config.json"
        ) from error


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise DistillensError(
            "the recipe uses LoRA, which needs peft: pip install 'distillens[peft]'"
        ) from error
    return peft


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain transformers model with LoRA folded in; the model itself where it has none."""
    if not hasattr(model, "merge_and_unload"):
        return model
    import copy

    return copy.deepcopy(model).merge_and_unload()


def num_parameters(model: PreTrainedModel, *, trainable: bool = False) -> int:
    """Parameters of a model, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
