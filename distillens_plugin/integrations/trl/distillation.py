"""TRL's DistillationTrainer with the lens.

Its loss is computed inside the student's wrapper (`_forward_redirection`): DDP then prepares for
the backward pass, and the weights of the head are whole. The lens reads them too, so its place is
in there, in `_compute_loss`.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from trl import DistillationTrainer

from distillens_plugin.integrations.transformers.arguments import (
    DistillLensArguments,
    arguments_or_default,
)
from distillens_plugin.integrations.trl.attaching import (
    LensOfTrainer,
    LogsLens,
    check_before_loading,
    completion_labels,
)
from distillens_plugin.integrations.trl.generation import generating_together
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from trl import DistillationTrainer as _Base
else:
    _Base = object  # it is mixed into one


class DistillLensDistillationMixin(LogsLens, _Base):
    """Puts the lens on a subclass of DistillationTrainer, before it in the list of bases.

    The student trains on TRL's own loss plus `distillens`'s terms, on the tokens that it wrote.
    TRL logs each term as `lens`, `lens/2-8`, `kd`: means over the tokens since the last log.

    Args:
        distillens: the terms; `trainer_loss` weighs TRL's own loss, by default 1.
        args, kwargs: as for the trainer; `teacher_model` is a model or its path.
    Raises:
        DistillensError: settings of the trainer that the lens does not honour, or arguments that
            do not fit the models.
    """

    def __init__(
        self, *args: Any, distillens: DistillLensArguments | None = None, **kwargs: Any
    ) -> None:
        check_before_loading(self, super().__init__, args, kwargs, distillens)
        router_loss = arguments_or_default(distillens).router_loss
        if router_loss:
            raise DistillensError(
                f"{type(self).__name__}: router_loss = {router_loss}, but TRL runs the "
                "student's body alone, which computes no router loss; leave it out"
            )
        super().__init__(*args, **kwargs)
        self._lens_of_trainer = LensOfTrainer(self, distillens)
        self._lens_was_added = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's, which calls `_compute_loss` inside the student's wrapper."""
        self._lens_was_added = False
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self._lens_was_added:
            raise DistillensError(
                f"{type(self).__name__}: its compute_loss does not call _compute_loss, as that of "
                "TRL 1.16's DistillationTrainer does, so the loss has no lens; use that trainer"
            )
        return result

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; with a student in pieces every process makes as many passes as the others."""
        with generating_together(self.model):
            return super()._generate_single_turn(*args, **kwargs)

    def _compute_loss(
        self, unwrapped_student: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        own, entropy_sum, num_valid = super()._compute_loss(
            unwrapped_student, inputs, num_items_in_batch
        )
        loss = self._lens_of_trainer.added_to(
            own,
            completion_labels(inputs),
            num_items_in_batch,
            mode="train" if self.model.training else "eval",
        )
        self._lens_was_added = True
        return loss, entropy_sum, num_valid


class DistillLensDistillationTrainer(DistillLensDistillationMixin, DistillationTrainer):
    """DistillationTrainer with the lens."""

    _tag_names: ClassVar[list[str]] = ["trl", "distillation", "distillens"]
