"""Layer numbers as torchdistill's forward hooks, and what a model offers to hook into."""

from collections.abc import Iterable

from torch import nn

from distillens_plugin.lens.discovery import Anatomy, find_anatomy, self_check, unwrap
from distillens_plugin.lens.layers import layer_to_hook
from distillens_plugin.lens.probe import hook_prefix
from eval_harness.errors import DistillensError
from eval_harness.shared.near import nearest


def check_paths(model: nn.Module, paths: Iterable[str], where: str = "forward_hook") -> None:
    """Refuses module paths that the model does not have.

    torchdistill only warns about them, and fails later without naming the path. "." is the model.

    Raises:
        DistillensError: naming the path, and the nearest paths that exist.
    """
    bare = unwrap(model)
    for path in paths:
        if path == "." or _resolve(bare, path) is not None:
            continue
        hint = _nearest(bare, path)
        raise DistillensError(
            f"{where}: {type(bare).__name__} has no module {path!r}{_list_range(bare, path)}; "
            + hint
        )


def _nearest(model: nn.Module, path: str) -> str:
    prefix = hook_prefix(model)
    if prefix and _resolve(model, prefix + path) is not None:
        return f"the model is inside a PeftModel; write {prefix}{path}"
    names = [name for name, _ in model.named_modules() if name]
    near = nearest(prefix + path, names)
    return f"nearest: {', '.join(near)}" if near else "distillens hooks MODEL lists them"


def _resolve(model: nn.Module, path: str) -> nn.Module | None:
    """As torchdistill's get_module does it, by getattr, so that paths mean the same."""
    module: object = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None


def _list_range(model: nn.Module, path: str) -> str:
    parent, _, index = path.rpartition(".")
    blocks = _resolve(model, parent) if parent else None
    if not index.isdigit() or not isinstance(blocks, nn.ModuleList):
        return ""
    return f" ({parent} has 0 to {len(blocks) - 1})"


def describe_hooks(model: nn.Module) -> str:
    """A table of a model's layers, their module paths, its readout and its head.

    Raises:
        DistillensError: the architecture is not supported.
    """
    anatomy = find_anatomy(model)
    rows = [
        ("model", type(unwrap(model)).__name__),
        ("blocks", f"{anatomy.blocks} ({anatomy.num_layers}, width {anatomy.width})"),
        *_layer_rows(anatomy),
        ("readout", _readout_text(anatomy)),
        ("head", _head_text(anatomy)),
        ("logits", _logits_text(anatomy)),
        ("final hidden states", f"output of {anatomy.body}"),
        ("self-check", f"off by {self_check(model, anatomy):.1e} of the largest logit"),
    ]
    column = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{column}}  {text}".rstrip() for name, text in rows)


def _layer_rows(anatomy: Anatomy) -> list[tuple[str, str]]:
    rows = []
    for layer in range(anatomy.num_layers + 1):
        kind, path = layer_to_hook(layer, anatomy.blocks)
        rows.append((f"layer {layer}", f"{kind} of {path}"))
    return rows


def _readout_text(anatomy: Anatomy) -> str:
    if not anatomy.readout:
        return "none: the head reads the last block's output"
    return ", then ".join(
        f"{path} ({'norm' if path in anatomy.norms else 'projection'})" for path in anatomy.readout
    )


def _head_text(anatomy: Anatomy) -> str:
    tied = "tied with the input embedding" if anatomy.tied else "not tied"
    bias = "with bias" if anatomy.bias else "no bias"
    shape = f"{anatomy.vocab_size} x {anatomy.head_width}"
    return f"{anatomy.head} ({shape}, {tied}, {bias}, {str(anatomy.dtype).removeprefix('torch.')})"


def _logits_text(anatomy: Anatomy) -> str:
    text = "head" if anatomy.scale == 1 else f"{anatomy.scale:g} * head"
    if anatomy.softcap is None:
        return text
    return f"{anatomy.softcap:g} * tanh({text} / {anatomy.softcap:g})"
