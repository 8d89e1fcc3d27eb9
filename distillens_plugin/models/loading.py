"""Builds the teacher and the student that a recipe names."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.models.adapters import add_lora, merge_adapter, name_base
from distillens_plugin.models.end_tokens import set_special_tokens
from distillens_plugin.models.pretrained import DTYPES, load_pretrained
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.config_files import check_config
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.shapes import check_memory, empty_model


def load_teacher(
    spec: TeacherSpec, *, where: str = "models.teacher_model", device_map: str | None = None
) -> PreTrainedModel:
    """The teacher, with its adapter merged in, frozen and in eval mode.

    Args:
        device_map: accelerate's, such as `auto`; None loads to the CPU.
    """
    model = load_pretrained(spec, where=where, device_map=device_map)
    if spec.adapter is not None:
        model = merge_adapter(model, spec, where=where)
    return model.requires_grad_(False).eval()


def load_student(
    spec: StudentSpec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None,
    where: str = "models.student_model",
    end_ids: tuple[int, ...] | None = None,
) -> PreTrainedModel:
    """The student: pretrained, cut from the teacher, or random from a config; LoRA if asked for."""
    if spec.init is None:
        model = load_pretrained(spec, where=where)
        if spec.adapter is not None:
            model = merge_adapter(model, spec, where=where)
    elif spec.init.from_teacher_layers is not None:
        source = teacher
        if spec.init.teacher is not None:
            source = load_pretrained(spec.cut_source, where=f"{where}.init.teacher")
        if source is None:
            raise DistillensError(
                f"{where}.init.from_teacher_layers: there is no teacher_model; add it, or name the "
                "model to cut from in init.teacher"
            )
        model = cut_from_teacher(
            source,
            spec.init.from_teacher_layers,
            where=where,
            attn_implementation=spec.attn_implementation,
        ).to(DTYPES[spec.dtype])
    else:
        model = _from_config(spec, tokenizer, where=where).to(DTYPES[spec.dtype])
    set_special_tokens(model, tokenizer, end_ids)
    if spec.gradient_checkpointing:
        # The re-entrant form runs hooks under no_grad: a lens would see no gradient.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.lora is not None:
        model = add_lora(model, spec.lora, where=f"{where}.lora")
        name_base(model, spec)
    return model


def _from_config(
    spec: StudentSpec, tokenizer: PreTrainedTokenizerBase, *, where: str
) -> PreTrainedModel:
    assert spec.init is not None  # the caller has checked
    assert spec.init.config is not None
    settings = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **spec.init.config,
    }
    try:
        check_config(settings)
        with foreign_errors("no model can be built from it"):
            config = AutoConfig.for_model(settings.pop("model_type"), **settings)
            check_memory(empty_model(config), DTYPES["float32"].itemsize)
            return AutoModelForCausalLM.from_config(
                config,
                attn_implementation=spec.attn_implementation,
                trust_remote_code=False,  # without it, transformers asks on standard input
            )
    except DistillensError as error:
        raise DistillensError(f"{where}.init.config: {error}") from error


def cut_from_teacher(
    teacher: PreTrainedModel,
    layers: list[int],
    *,
    where: str,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A shallower model with the teacher's own weights: only the blocks `layers`, all else as is.

    Args:
        teacher: a causal LM.
        layers: which of its blocks to keep, in order; each in [0, num_layers - 1].
        attn_implementation: None is the teacher's own.
    Raises:
        DistillensError: a block is out of range.
    """
    anatomy = lens_of(teacher).anatomy
    for index, layer in enumerate(layers):
        if not 0 <= layer < anatomy.num_layers:
            raise DistillensError(
                f"{where}.init.from_teacher_layers[{index}] = {layer}, but the teacher has blocks "
                f"0 to {anatomy.num_layers - 1}"
            )
    config = type(teacher.config).from_dict(shallower(teacher.config, layers))
    student = AutoModelForCausalLM.from_config(
        config,
        attn_implementation=attn_implementation or teacher.config._attn_implementation,
        trust_remote_code=False,
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


def shallower(config: PretrainedConfig, layers: list[int]) -> dict[str, Any]:
    """A configuration with these blocks only: their number, and lists with one entry a block."""
    num_layers = config.num_hidden_layers
    cut = {
        key: [value[layer] for layer in layers]
        if isinstance(value, list) and len(value) == num_layers
        else value
        for key, value in config.to_dict().items()
    }
    # GPT-2 and similar models have their own name for it.
    cut[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    return cut


def num_parameters(model: PreTrainedModel, *, trainable: bool = False) -> int:
    """Number of parameters of a model, tied ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
