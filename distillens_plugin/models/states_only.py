"""A teacher of which only the readout is loaded: final norm, unembedding, and what lies between.

Enough where the hidden states come from a cache. The model is loaded with one block, looked at and
checked as any other, and then loses the block too. Its list of blocks keeps its length, so that
hooks find their modules, but none of them can run.
"""

import copy
import time
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.lens.known_lenses import remember
from distillens_plugin.models.loading import shallower
from distillens_plugin.models.outer_adapter import merge_outer_adapter
from distillens_plugin.models.pretrained import DTYPES, load_pretrained
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.checks import CheckedFolder


class AbsentBlock(nn.Module):
    """Stands where a block was."""

    def forward(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse_to_run()


class AbsentEmbedding(nn.Embedding):
    """Stands where an embedding was; its one row tells type and device."""

    def forward(self, input: object) -> NoReturn:
        _refuse_to_run()


def _refuse_to_run() -> NoReturn:
    raise RunFailure(
        "the teacher was asked for states, but its blocks were not loaded (teacher: states_only); "
        "set teacher_cache.teacher: whole"
    )


@dataclass(frozen=True)
class Readout:
    """What was loaded of a teacher.

    Attributes:
        model: frozen, in eval mode, with a lens that knows all its layers.
        num_parameters, all_parameters: loaded, and of the whole teacher.
        seconds: that it took.
    """

    model: PreTrainedModel
    num_parameters: int
    all_parameters: int
    num_bytes: int
    all_bytes: int
    seconds: float

    def describe(self) -> str:
        """One line for the log: memory and time."""
        return (
            f"teacher: states only: its readout and head, {self.num_parameters:,} of "
            f"{self.all_parameters:,} parameters, {_size(self.num_bytes)} instead of "
            f"{_size(self.all_bytes)}, loaded in {self.seconds:.1f} s"
        )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def is_states_only(model: nn.Module) -> bool:
    """Whether a (wrapped) model has lost its blocks."""
    return any(isinstance(module, AbsentBlock) for module in model.modules())


def load_readout(spec: TeacherSpec, *, where: str = "models.teacher_model") -> Readout:
    """The readout and head of a teacher; its adapter is merged in as far as it concerns them.

    Raises:
        DistillensError: as `load_teacher` does, or a config that cannot be had with one block.
    """
    started_at = time.perf_counter()
    seen: list[CheckedFolder] = []

    def one_block(checked: CheckedFolder) -> PretrainedConfig:
        seen.append(checked)
        reason = not_reducible(checked.config)
        if reason is not None:
            raise DistillensError(f"{reason}; set teacher_cache.teacher: whole")
        return type(checked.config).from_dict(shallower(checked.config, [0]))

    model: Any = load_pretrained(spec, where=where, shape=one_block)
    if spec.adapter is not None:
        blocks = find_anatomy(model).blocks
        model = merge_outer_adapter(model, spec, blocks=blocks, where=where)
    model.requires_grad_(False).eval()
    anatomy = find_anatomy(model)
    (checked,) = seen
    num_layers = checked.config.num_hidden_layers
    tied = model.config.tie_word_embeddings
    model.set_submodule(anatomy.blocks, nn.ModuleList([AbsentBlock() for _ in range(num_layers)]))
    model.config = copy.deepcopy(checked.config)
    model.config.tie_word_embeddings = tied
    model.name_or_path = model.config.name_or_path = spec.name_or_path
    if not anatomy.tied:
        _forget_embedding(model)
    remember(model, replace(anatomy, num_layers=num_layers))
    whole = checked.model if checked.model is not None else model
    # Built without weights, it has not tied its embedding to its head yet.
    whole.tie_weights()
    numbers = [sum(p.numel() for p in each.parameters()) for each in (model, whole)]
    if checked.config.tie_word_embeddings and not anatomy.tied:
        # An adapter on one of the two has untied them, in the whole teacher as well.
        numbers[1] += anatomy.vocab_size * anatomy.head_width
    width = DTYPES[spec.dtype].itemsize
    return Readout(
        model=model,
        num_parameters=numbers[0],
        all_parameters=numbers[1],
        num_bytes=numbers[0] * width,
        all_bytes=numbers[1] * width,
        seconds=time.perf_counter() - started_at,
    )


def not_reducible(config: PretrainedConfig) -> str | None:
    """Why a model cannot be had with one block; None if it can."""
    if config.get_text_config() is not config:
        return f"a {config.model_type} model keeps its text model's layers in a config of its own"
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        return f"a {config.model_type} config has no num_hidden_layers"
    return None


def _forget_embedding(model: PreTrainedModel) -> None:
    """Nothing reads an input embedding that is not the head as well."""
    weight: Any = model.get_input_embeddings().weight
    with torch.no_grad():
        first = weight[:1].clone()
    absent = AbsentEmbedding(1, weight.shape[1], _weight=first)
    model.set_input_embeddings(absent.requires_grad_(False))
