"""Whether another hook reads the unembedding's output; then the model cannot run without it.

Under a headless forward the head sees the rows of no position at all. A loss on its output, such as
torchdistill's own on `lm_head`, would be the mean over nothing: NaN, without a warning.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

from distillens_plugin.lens.probe import unwrap

Hook = TypeVar("Hook", bound=Callable[..., object])


def reads_no_logits(hook: Hook) -> Hook:
    """Marks a hook of this package that does without what the head gives."""
    hook.reads_no_logits = True  # type: ignore[attr-defined]
    return hook


def head_reader(model: nn.Module, head: nn.Module) -> str | None:
    """The path of a module whose hook sees the head's rows or the logits; None if there is none.

    Such a module is the head, one inside it (LoRA), or one around it, up to the wrappers.

    Args:
        model: as it is called, perhaps in DDP, torch.compile or peft.
        head: the unembedding.
    """
    bare = unwrap(model)
    for path, module in bare.named_modules():
        if module is head:
            return _hooked(path, module) or _hooked_above(model, bare, path)
    return None


def _hooked(path: str, head: nn.Module) -> str | None:
    for inner, module in head.named_modules(prefix=path):
        # A hook before the head sees its input rows, and there are none.
        if _any_reads(module._forward_hooks) or _any_reads(module._forward_pre_hooks):
            return inner
    return None


def _hooked_above(model: nn.Module, bare: nn.Module, path: str) -> str | None:
    names = path.split(".")[:-1]
    above = [".".join(names[:length]) for length in range(len(names), -1, -1)]
    for name in above:
        if _any_reads(bare.get_submodule(name)._forward_hooks):
            return name or "."
    while model is not bare:
        if _any_reads(model._forward_hooks):
            return "."
        model = next(model.children())
    return None


def _any_reads(hooks: Mapping[int, Callable[..., object]]) -> bool:
    return any(not (_is_ours(hook) or _is_of_sharding(hook)) for hook in hooks.values())


def _is_ours(hook: Callable[..., object]) -> bool:
    return getattr(hook, "reads_no_logits", False)


def _is_of_sharding(hook: Callable[..., object]) -> bool:
    """FSDP2 and DeepSpeed gather parameters in hooks of their own, and pass values on."""
    module = getattr(hook, "__module__", None) or ""
    return module.startswith(("torch.distributed.fsdp.", "deepspeed."))
