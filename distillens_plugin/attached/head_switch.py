"""Runs a model's forward without its head, whoever calls it and whatever is wrapped around it.

The head is given the rows of no position. It stays in the graph, so that DDP still counts on its
gradient, and the model returns logits [B, 0, V]. Generation with a cache keeps its head.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distillens_plugin.lens.head_hooks import head_reader, reads_no_logits
from distillens_plugin.lens.probe import plain_model, unwrap
from distillens_plugin.lens.readout import Lens
from distillens_plugin.lens.recorder import has_cache
from eval_harness.errors import DistillensError


class HeadSwitch:
    """Switches a model's head off and on.

    Args:
        model: (wrapped) model.
        lens: of the model.
    """

    def __init__(self, model: nn.Module, lens: Lens) -> None:
        self._model, self._lens = model, lens
        self._body: nn.Module | None = None
        self._head: nn.Module | None = None
        self._head_handle: RemovableHandle | None = None
        self._handles: list[RemovableHandle] = []
        self._generates = False

    def __deepcopy__(self, memo: object) -> "HeadSwitch":
        # For the hooks of a copied model, which must not switch this one's head.
        return self

    @property
    def is_off(self) -> bool:
        return bool(self._handles)

    def off(self) -> None:
        """Forward passes skip the head from now on.

        Raises:
            DistillensError: a hook reads the head's output, and would see nothing.
        """
        if self.is_off:
            return
        plain, head = plain_model(self._model), self._lens.part(self._lens.anatomy.head)
        reader = head_reader(self._model, head)
        if reader is not None:
            raise DistillensError(
                f"AttachedLens: headless, but a hook on {reader!r} of {type(plain).__name__} reads "
                "the logits; remove the hook, or leave headless out"
            )
        self._hook_head()
        body = self._body = plain.get_submodule(self._lens.anatomy.body)
        self._handles = [
            body.register_forward_pre_hook(self._see_cache, with_kwargs=True),
            body.register_forward_hook(self._follow_head),
        ]
        for model in {id(m): m for m in (unwrap(self._model), plain)}.values():
            self._handles.append(model.register_forward_pre_hook(_refuse_labels, with_kwargs=True))

    def on(self) -> None:
        """Forward passes compute logits again."""
        for handle in [*self._handles, self._head_handle]:
            if handle is not None:
                handle.remove()
        self._handles, self._head, self._head_handle = [], None, None

    def _hook_head(self) -> None:
        if self._head_handle is not None:
            self._head_handle.remove()
        self._head = self._lens.part(self._lens.anatomy.head)
        self._head_handle = self._head.register_forward_pre_hook(self._no_rows)

    @reads_no_logits
    def _no_rows(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._generates or module is not self._head:
            return args
        hidden, *rest = args
        return hidden[..., :0, :], *rest

    def _see_cache(self, module: nn.Module, args: object, kwargs: Mapping[str, Any]) -> None:
        if module is self._body:
            self._generates = has_cache(kwargs)

    def _follow_head(self, module: nn.Module, args: object, output: object) -> None:
        if module is not self._body:
            return
        # peft may have put its own module in the head's place since.
        if self._lens.part(self._lens.anatomy.head) is not self._head:
            self._hook_head()


def _refuse_labels(module: nn.Module, args: object, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("labels") is not None:
        raise DistillensError(
            "AttachedLens: headless, so the model has no logits to compute its own loss from, but "
            "the batch has labels; call the model without them and give them to AttachedLens.loss"
        )
