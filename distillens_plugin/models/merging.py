"""Adapters merged into the weights they adapt, and a check that the model is still the same.

An adapter on one of two tied modules (an unembedding that is the embedding) cannot be merged into
the weight that both share: the other module would change as well. Such a model is untied first.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillens_plugin.lens.discovery import TOLERANCES
from distillens_plugin.lens.probe import logits_of, plain_model, run_probe, undisturbed
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from peft import PeftModel


def merged(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """A plain transformers model with LoRA merged in; the model itself if it has none.

    Raises:
        DistillensError: as `merge` does.
    """
    return merge(copy.deepcopy(model)) if hasattr(model, "merge_and_unload") else model


def merge(model: "PeftModel") -> PreTrainedModel:
    """Merges a PeftModel's adapter into its weights, in place; returns the plain model.

    If the adapter is on one of two tied modules, the two are untied, and the config says so.

    Raises:
        DistillensError: the adapter cannot be merged, or merging changes the model's logits.
    """
    if not hasattr(model.base_model, "merge_and_unload"):
        kind = getattr(model.active_peft_config.peft_type, "value", "?")
        raise DistillensError(
            f"an adapter of the type {kind} is not part of the weights, so it cannot be merged; "
            "expected a type such as LORA"
        )
    expected = _logits(plain_model(model))
    _untie_adapted(model)
    with quiet_peft():
        plain = model.merge_and_unload()
    say_untied(plain)
    found = _logits(plain)
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    allowed = max(TOLERANCES.get(p.dtype, 2e-3) for p in plain.parameters())
    if not error <= allowed:
        raise DistillensError(
            f"merging the adapter changes the model: its logits are off by {error.item():.2g} of "
            f"the largest, allowed {allowed:g}; take embeddings and unembedding out of the "
            "adapter's modules, or merge it with peft and name the merged folder"
        )
    return plain


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silences peft's warnings about tied weights, which are untied here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def is_tied(model: nn.Module) -> bool:
    """Whether the (wrapped) model's unembedding is its embedding."""
    plain: Any = plain_model(model)
    head, embedding = (
        _base(each()) for each in (plain.get_output_embeddings, plain.get_input_embeddings)
    )
    return head is not None and getattr(head, "weight", None) is embedding.weight


def _untie_adapted(model: nn.Module) -> None:
    """Gives each adapted module its own weight if others share it."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for module in model.modules():
        if not hasattr(module, "base_layer"):
            continue
        base = _base(module)
        for name, parameter in base._parameters.items():
            if parameter is not None and holders[id(parameter)] > 1:
                holders[id(parameter)] -= 1
                own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                base._parameters[name] = own


def say_untied(plain: PreTrainedModel) -> None:
    """Makes the config, and what ties weights by it, agree with the weights."""
    if not getattr(plain.config, "tie_word_embeddings", False) or is_tied(plain):
        return
    for config in (plain.config, plain.config.get_text_config()):
        config.tie_word_embeddings = False
    if hasattr(plain, "get_expanded_tied_weights_keys"):
        plain.all_tied_weights_keys = plain.get_expanded_tied_weights_keys(all_submodels=True)


def _base(module: Any) -> Any:
    while hasattr(module, "get_base_layer") and hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _logits(plain: nn.Module) -> Tensor:
    with undisturbed(plain), torch.no_grad():
        return logits_of(plain, run_probe(plain)).detach().float()
