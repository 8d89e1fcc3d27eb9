"""The lens in TRL's GKDTrainer, which is in `trl.experimental` and so is not imported here."""

import random
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from distillens_plugin.integrations.transformers.arguments import DistillLensArguments
from distillens_plugin.integrations.trl.attaching import (
    LensOfTrainer,
    LogsLens,
    check_before_loading,
)
from distillens_plugin.integrations.trl.generation import generating_together
from distillens_plugin.sharding.pieces import is_in_pieces
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from trl.experimental.gkd import GKDTrainer as _Base
else:
    _Base = object  # it is mixed into one


class DistillLensGKDMixin(LogsLens, _Base):
    """Puts the lens on GKDTrainer: `class Trainer(DistillLensGKDMixin, GKDTrainer): pass`.

    The student trains on TRL's own loss plus `distillens`'s terms, on the dataset's answers or on
    those that GKD generates. Both losses are divided by the count that TRL gives, which in GKD is
    that of the dataset's answers. TRL logs each term as `lens`, `lens/2-8`, `kd`: means over the
    tokens since the last log.

    Args, Raises: as for `DistillLensDistillationMixin`.
    """

    lmbda: float  # TRL's: the share of steps on generated answers

    def __init__(
        self, *args: Any, distillens: DistillLensArguments | None = None, **kwargs: Any
    ) -> None:
        _check_base(type(self))
        check_before_loading(self, super().__init__, args, kwargs, distillens)
        super().__init__(*args, **kwargs)
        self._lens_of_trainer = LensOfTrainer(self, distillens)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """TRL's, which throws a die: do we train on the dataset's answers or on generated ones?

        With models in pieces the first process throws it for all, as they generate together.
        """
        if not is_in_pieces(self.model):
            return super().training_step(model, inputs, num_items_in_batch)
        generates = [random.random() <= self.lmbda]
        broadcast_object_list(generates)
        own, self.lmbda = self.lmbda, 1.0 if generates[0] else -1.0
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self.lmbda = own

    def generate_on_policy_outputs(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """TRL's; with a model in pieces every process makes as many passes as the others."""
        with generating_together(model):
            return super().generate_on_policy_outputs(model, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's loss with the lens, and with `return_outputs` what the student returned."""
        own, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        loss = self._lens_of_trainer.added_to(
            own,
            inputs["labels"],
            num_items_in_batch,
            mode="train" if self.model.training else "eval",
        )
        return (loss, outputs) if return_outputs else loss


def _check_base(kind: type) -> None:
    from trl.experimental.gkd import GKDTrainer

    if not issubclass(kind, GKDTrainer):
        bases = ", ".join(base.__name__ for base in kind.__bases__)
        raise DistillensError(
            f"{kind.__name__}({bases}): DistillLensGKDMixin is for subclasses of GKDTrainer alone; "
            "for transformers' own Trainer there is DistillLensMixin"
        )
