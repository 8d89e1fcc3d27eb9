"""Runs a model once on a few tokens and records each module's calls, inputs and outputs in order.

The architecture is found from this record, so that no table of model classes is needed. Temporary
hooks make the record; other hooks (torchdistill's, accelerate's) stay in place.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eval_harness.errors import DistillensError

_BATCH, _TOKENS = 2, 5


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel, DeepSpeed and torch.compile wrappers.

    A PeftModel is not a wrapper in this sense and is returned as it is.
    """
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif is_engine(model) or (
            list(dict(model.named_children())) == ["module"] and not hasattr(model, "config")
        ):
            model = model.module  # type: ignore[assignment]
        else:
            return model


def is_engine(model: nn.Module) -> bool:
    """Whether it is DeepSpeed's engine, which passes unknown attributes on, `config` among them."""
    return any(kind.__name__ == "DeepSpeedEngine" for kind in type(model).__mro__)


def plain_model(model: nn.Module) -> nn.Module:
    """The transformers model itself: unwrapped, and taken out of a PeftModel.

    Its module paths do not all resolve on the PeftModel (`model.layers` does not, as a PeftModel
    has a `model` of its own): `hook_prefix` gives what goes before them.
    """
    bare = unwrap(model)
    if hasattr(bare, "peft_config") and hasattr(bare, "get_base_model"):
        bare = bare.get_base_model()  # type: ignore[operator]
    return bare


def hook_prefix(model: nn.Module) -> str:
    """What goes before a plain model's module paths on the (unwrapped) model that hooks are set on.

    Empty, or `base_model.model.` in a PeftModel.
    """
    plain = plain_model(model)
    path = next(path for path, module in unwrap(model).named_modules() if module is plain)
    return f"{path}." if path else ""


def refuse_sharded(model: nn.Module) -> None:
    """Raises if the model is in pieces already: its lens is found by watching plain tensors.

    An FSDP2 model is read by the lens that was made before it was sharded.
    """
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    modules = list(model.modules())
    name = type(unwrap(model)).__name__
    if any(isinstance(module, FSDPModule) for module in modules):
        raise DistillensError(
            f"{name} is sharded by FSDP2 before the lens has seen it; make the lens first "
            "(AttachedLens, or distillens.forward's reader), then shard the model"
        )
    sharded = any(isinstance(module, FullyShardedDataParallel) for module in modules)
    if sharded or any(hasattr(p, "ds_id") or hasattr(p, "placements") for p in model.parameters()):
        raise DistillensError(
            f"{name} is sharded (FSDP version 1, ZeRO-3 or tensor parallel), and the lens reads "
            "the unembedding outside the model's forward; use FSDP2, ZeRO-2 or data parallelism "
            "(recipes/accelerate)"
        )


def hidden_states_of(value: Any) -> Tensor | None:
    """The hidden states in what a block or body returns (or a hook recorded): [B, T, D].

    A tensor is taken as it is, from a model output `last_hidden_state`, from a tuple or list its
    first entry; None when that is no tensor.
    """
    if not isinstance(value, Tensor):
        value = getattr(value, "last_hidden_state", value)
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def same_tensor(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two tensors hold the same values (views of each other without looking at them)."""
    if left is None or right is None or left.shape != right.shape:
        return False
    return left is right or left.data_ptr() == right.data_ptr() or torch.equal(left, right)


@dataclass
class Call:
    """One run of one module; `entered` and `left` share a clock, so calls nest like brackets."""

    path: str
    module: nn.Module
    entered: int
    input: Tensor | None
    left: int = -1
    output: Any = None

    @property
    def hidden(self) -> Tensor | None:
        return hidden_states_of(self.output)

    def inside(self, other: "Call") -> bool:
        return other.entered < self.entered and self.left < other.left


@dataclass
class Trace:
    """What one forward pass did: its calls in order of entry, and the logits [B, T, V]."""

    calls: list[Call] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def outermost(self, calls: list[Call]) -> list[Call]:
        return [call for call in calls if not any(call.inside(other) for other in calls)]


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every module's own train mode is restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; those that did do so again after."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """`in_eval_mode`, and no compilation."""
    # Compiled code would not run hooks set after compiling it.
    with in_eval_mode(model), torch.compiler.set_stance("force_eager"):
        yield


def probe_inputs(model: nn.Module) -> dict[str, Any]:
    """A tiny batch for a causal LM, without padding: ids 0, 1, 2 ... on the embedding's device."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    ids = torch.arange(_BATCH * _TOKENS, device=embedding.weight.device) % len(embedding.weight)
    ids = ids.view(_BATCH, _TOKENS)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "use_cache" in forward_parameters(model):
        inputs["use_cache"] = False
    return inputs


def forward_parameters(model: nn.Module) -> set[str]:
    """Parameter names of the class's own `forward` (accelerate replaces the instance's)."""
    return set(inspect.signature(type(model).forward).parameters)


def run_probe(model: nn.Module, **more: Any) -> Any:
    """The plain model's output on the probe batch.

    Raises:
        DistillensError: the forward fails; names the model's class and the error.
    """
    try:
        return model(**probe_inputs(model), **more)
    except Exception as error:
        raise DistillensError(
            f"{type(model).__name__}: the probe forward on {_BATCH} x {_TOKENS} token ids failed "
            f"({type(error).__name__}: {error}); only causal language models that run on input_ids "
            "alone are supported"
        ) from error


def trace_forward(model: nn.Module) -> Trace:
    """Runs the plain model on the probe batch and records every module's calls."""
    trace = Trace()
    open_calls: list[Call] = []
    clock = iter(range(2**62))

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(path, module, next(clock), hidden_states_of(args))
            trace.calls.append(call)
            open_calls.append(call)

        return hook

    def leave(module: nn.Module, args: object, output: Any) -> None:
        call = open_calls.pop()
        call.left, call.output = next(clock), output

    handles = []
    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
    try:
        with undisturbed(model):
            trace.logits = logits_of(model, run_probe(model))
    finally:
        for handle in handles:
            handle.remove()
    return trace


def logits_of(model: nn.Module, output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise DistillensError(
            f"{type(model).__name__} returns no logits; a causal language model is needed "
            "(AutoModelForCausalLM)"
        )
    return logits
