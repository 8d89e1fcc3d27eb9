"""One of the two models of an attached lens: its hooks, and what its last forward pass left."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distillens_plugin.attached.head_switch import HeadSwitch
from distillens_plugin.lens.head_hooks import reads_no_logits
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.output import IoDict, LensOutput
from distillens_plugin.lens.probe import plain_model, unwrap
from distillens_plugin.lens.recorder import Record, Recorder
from eval_harness.errors import DistillensError


class Side:
    """A student or a teacher.

    Args:
        role: for errors.
        model: (wrapped) causal LM.
        asks_router: make the forward pass compute the router loss.
    Raises:
        DistillensError: the lens cannot read the model.
    """

    def __init__(
        self, role: Literal["student", "teacher"], model: nn.Module, *, asks_router: bool = False
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DistillensError(
                f"AttachedLens: the {role} is of type {type(model).__name__}, expected a model; "
                "load it with AutoModelForCausalLM.from_pretrained"
            )
        self.role, self.model = role, model
        _refuse_virtual_tokens(role, model)
        self.plain = plain_model(model)
        self.lens = lens_of(model)
        self.head = HeadSwitch(model, self.lens)
        self._asks_router = asks_router
        self._recorder: Recorder | None = None
        self._has_run = False
        self._router_loss: Tensor | None = None
        self._handles: list[RemovableHandle] = []

    def attach(self, layers: Iterable[Layer]) -> None:
        """Hooks the model; what was compiled before would not run the hooks."""
        self._recorder = Recorder(self.model, self.lens.anatomy, layers)
        if self.role == "teacher":
            body = self.plain.get_submodule(self.lens.anatomy.body)
            self._handles.append(body.register_forward_pre_hook(self._keep_in_eval_mode))
        if self._asks_router:
            # The config stays as it is: it is saved with the model.
            for model in {id(m): m for m in (unwrap(self.model), self.plain)}.values():
                ask = model.register_forward_pre_hook(_ask_router, with_kwargs=True)
                keep = model.register_forward_hook(self._keep_router_loss)
                self._handles += [ask, keep]
        if _is_compiled(self.model):
            torch.compiler.reset()

    def recorded(self) -> Record:
        """What the last forward pass left.

        Raises:
            DistillensError: there is none, or a loss has used it.
        """
        record = self._recorder.record if self._recorder is not None else None
        if record is None:
            since = "since the last loss" if self._has_run else "since the lens was attached"
            raise DistillensError(
                f"AttachedLens.loss: the {self.role} has not run {since} (runs with a key-value "
                "cache do not count); run student and teacher on the batch before each loss"
            )
        if record.hidden_by_checkpointing and self.role == "student":
            raise DistillensError(
                "AttachedLens.loss: the student's gradient checkpointing is reentrant, which cuts "
                "its layers off the graph; set gradient_checkpointing_kwargs={'use_reentrant': "
                "False}"
            )
        learns = any(p.requires_grad for p in self.model.parameters())
        if self.role == "student" and torch.is_grad_enabled() and learns and not record.with_graph:
            raise DistillensError(
                "AttachedLens.loss: the student ran without gradients (torch.no_grad), so that its "
                "layers would learn nothing; run it with them, or call loss under torch.no_grad too"
            )
        return record

    def take(self) -> IoDict:
        """The last forward pass as loss terms read it; it is then forgotten."""
        assert self._recorder is not None
        record = self._recorder.take()
        assert record is not None  # `recorded` has checked it
        self._has_run = True
        # Of a model in pieces that does not keep its head whole after its forward.
        self.lens.gather()
        router_loss, self._router_loss = self._router_loss, None
        output = LensOutput(self.lens, record, router_loss=router_loss)
        return {**record.layers, ".": {"output": output}}

    def remove(self) -> None:
        """Takes the hooks off."""
        self.head.on()
        if self._recorder is not None:
            self._recorder.remove()
        for handle in self._handles:
            handle.remove()
        self._handles, self._router_loss = [], None

    def __deepcopy__(self, memo: object) -> "Side":
        return self  # for the hooks of a copied model

    def _keep_in_eval_mode(self, module: nn.Module, args: object) -> None:
        # Trainers put all that they know into train mode, and then a teacher drops out.
        if module.training:
            self.model.eval()

    @reads_no_logits
    def _keep_router_loss(self, module: nn.Module, args: object, output: Any) -> None:
        if module in (unwrap(self.model), self.plain):
            self._router_loss = getattr(output, "aux_loss", None)


def _ask_router(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "output_router_logits": True}


def _refuse_virtual_tokens(role: str, model: nn.Module) -> None:
    adapters: Mapping[str, Any] = getattr(unwrap(model), "peft_config", None) or {}
    for adapter in adapters.values():
        if getattr(adapter, "is_prompt_learning", False):
            raise DistillensError(
                f"AttachedLens: the {role} has {type(adapter).__name__} of peft, whose virtual "
                "tokens have no place in labels; use LoRA or another adapter of weights"
            )


def _is_compiled(model: nn.Module) -> bool:
    modules = model.modules()
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules)
