"""What can be refused only once models are built, before the first step."""

import re
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.lens.discovery import Anatomy, unwrap
from distillens_plugin.lens.hooks import check_paths
from distillens_plugin.lens.positions import num_positions
from distillens_plugin.recipe.schema.names import OWN_SUM
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.schema.terms import TERMS
from eval_harness.errors import DistillensError

_INSTANCE = re.compile(r"instance\((\w+)\)")


def check_embeddings(
    student: Anatomy, teacher: Anatomy | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    for role, anatomy in (("student", student), ("teacher", teacher)):
        if anatomy is not None and anatomy.vocab_size < len(tokenizer):
            raise DistillensError(
                f"the {role} has an unembedding of {anatomy.vocab_size} tokens, but the tokenizer "
                f"has {len(tokenizer)}; use the {role}'s own tokenizer, or a model resized to the "
                "tokenizer's length"
            )


def check_normalisation(recipe: Recipe, accelerator: Accelerator) -> None:
    """Refuses a term that is a mean over its batch if a step adds up terms of several batches."""
    criterion = recipe.train.criterion
    batches = recipe.train.optimizer.grad_accum_step * accelerator.num_processes
    foreign = [n for n, t in criterion.kwargs.sub_terms.items() if t.criterion.key not in TERMS]
    if criterion.key != OWN_SUM and batches > 1 and (foreign or criterion.kwargs.model_term):
        raise DistillensError(
            f"{recipe.where('train.criterion.key')}: found {criterion.key} with "
            f"{foreign[0] if foreign else 'model_term'}, a mean over its own batch, in steps of "
            f"{batches} batches; expected {OWN_SUM}, which weighs it by its supervised tokens"
        )


def check_hooks(
    train: dict[str, Any], student: nn.Module, teacher: nn.Module | None, recipe: Recipe
) -> None:
    for role, model in (("student", student), ("model", student), ("teacher", teacher)):
        hooks = train.get(role, {}).get("forward_hook", {})
        if model is not None:
            for kind, paths in hooks.items():
                check_paths(model, paths, where=f"{recipe.path}: train.{role}.forward_hook.{kind}")
            frozen = train.get(role, {}).get("frozen_modules", [])
            _check_frozen(model, frozen, f"{recipe.path}: train.{role}.frozen_modules")


def _check_frozen(model: nn.Module, paths: list[str], where: str) -> None:
    """torchdistill only logs what it does not find, and would train it.

    It takes paths of modules, names of parameters, and `instance(LayerNorm)` of torch.nn.
    """
    parameters = {name for name, _ in unwrap(model).named_parameters(remove_duplicate=False)}
    for path in paths:
        if path == ".":
            raise DistillensError(f"{where}: found '.'; to freeze all, set requires_grad: false")
        if found := _INSTANCE.fullmatch(path):
            kind = getattr(nn, found[1], None)
            if not isinstance(kind, type) or not any(isinstance(m, kind) for m in model.modules()):
                raise DistillensError(
                    f"{where}: the model has no module of torch.nn.{found[1]}; name the class of "
                    "one that it has, or module paths"
                )
        elif path not in parameters:
            check_paths(model, [path], where=where)


def check_positions(
    role: str,
    model: nn.Module | None,
    train: InstructionDataset,
    validation: InstructionDataset | None,
    recipe: Recipe,
) -> None:
    """Learned position embeddings fail with an index error beyond their end; others degrade."""
    config = getattr(model, "config", None)
    limit = num_positions(config) if config is not None else None
    for name, data in (("train", train), ("validation", validation)):
        if data is not None:
            check_lengths(role, limit, data, recipe.where(f"datasets.{name}"))


def check_lengths(role: str, limit: int | None, data: InstructionDataset, where: str) -> None:
    """Refuses rows that are longer than a model's positions.

    Args:
        limit: how many these are; None if its config sets no limit.
        where: the recipe's key, for errors.
    """
    # Of a stream, only the first rows are known.
    streamed = data.spec.streaming
    longest = data.spec.max_length if streamed else max(data.lengths)
    if limit is not None and longest > limit:
        found = "rows of the stream may have" if streamed else "the longest row has"
        raise DistillensError(
            f"{where}: {found} {longest} tokens, but the {role} has {limit} positions; set "
            f"max_length to {limit} or less"
        )
