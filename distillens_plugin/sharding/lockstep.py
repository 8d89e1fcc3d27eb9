"""As many forward passes on every process, where each has its own number to make.

Every pass through a sharded model gathers weights, in which all processes take part: one that
answers shorter, or fewer rows, would leave the others waiting. transformers' `synced_gpus` keeps
one call of `generate` together; it does not help where processes make different numbers of calls,
and runs a process that has finished beyond the positions of its model.
"""

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distillens_plugin.sharding.pieces import is_in_pieces

_within: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@contextmanager
def lockstep(model: nn.Module, plain: nn.Module) -> Iterator[None]:
    """Within it, each process calls a sharded model as often as it likes; all leave it together.

    A process that has come to the end takes part in the passes of the others with one token. Every
    process must enter; without shards, or within another lockstep, nothing happens.

    Args:
        model: a causal LM, unwrapped.
        plain: the transformers model, which may be called: `model` itself, or inside a PeftModel.
    """
    if not is_in_pieces(model) or model in _within:
        yield
        return
    device = next(model.parameters()).device

    def another(runs: bool) -> bool:
        """Whether any process makes another pass."""
        flag = torch.tensor(int(runs), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def tell(module: nn.Module, inputs: object) -> None:
        another(True)

    hook = model.register_forward_pre_hook(tell, prepend=True)
    _within.add(model)
    try:
        with _through(model, plain):
            yield
    finally:
        hook.remove()
        _within.discard(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        while another(False):
            model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)


@contextmanager
def _through(model: nn.Module, plain: nn.Module) -> Iterator[None]:
    """Calling `plain` calls the model around it, whose hooks gather its weights.

    `generate` of a PeftModel calls the model inside, past the hooks of the PeftModel itself.
    """
    if model is plain:
        yield
        return
    inner: Any = plain.forward
    entered = False

    # `generate` reads the signature, which `wraps` passes on.
    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal entered
        if entered:
            return inner(*args, **kwargs)
        entered = True
        try:
            return model(*args, **kwargs)
        finally:
            entered = False

    plain.forward = forward
    try:
        yield
    finally:
        plain.forward = inner
