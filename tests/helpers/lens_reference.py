"""What the lens must reproduce, written out plainly; every architecture, tied and untied."""

import itertools

import torch
from peft import LoraConfig, get_peft_model
from small_models import ARCHITECTURES, token_batch
from torch import nn

from distillens_plugin.lens.discovery import Lens, hidden_states_of, plain_model

EVERY = list(itertools.product(ARCHITECTURES, (True, False)))


def lens_logits(lens: Lens, rows: torch.Tensor) -> torch.Tensor:
    """softcap(scale * (h W^T + b)), written out again, for the rows the head reads."""
    head = lens.head()
    logits = rows @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def run(model, path=None, **more):
    """The model's output on a batch, and what the module at `path` returned."""
    seen = []
    module = plain_model(model).get_submodule(path) if path else plain_model(model)
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    ids = token_batch()
    try:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    finally:
        handle.remove()
    return output, hidden_states_of(seen[0]) if path else None


def with_lora(model, **config):
    """LoRA whose B is not zero, so that the adapter takes part."""
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, **config))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return model
