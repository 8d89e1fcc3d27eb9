"""The auxiliary loss of a mixture of experts, which a loss on hidden states alone would lose."""

from torch import Tensor, nn

from distillens_plugin.lens.probe import plain_model
from distillens_plugin.lens.router import has_router
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import Term
from eval_harness.errors import DistillensError


class RouterLoss(Term):
    """`distillens.router_loss`: the student's own load-balancing loss over its experts.

    It is what transformers' models return as `aux_loss` (Fedus et al. 2022, arXiv 2101.03961,
    equations 4 to 6), over all tokens of the batch. The model's own loss adds it with the factor
    `router_aux_loss_coef` of its config; give the term that weight for the same training.
    """

    default_name = "router_loss"
    where = "distillens.router_loss"
    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        if not has_router(student):
            raise DistillensError(
                f"{self.where}: the student {type(plain_model(student)).__name__} computes no "
                "router loss; expected a mixture of experts such as Mixtral; remove the term"
            )

    def value(self, reading: Reading) -> Tensor:
        loss = reading.student.router_loss
        if loss is None:
            raise DistillensError(
                f"{self.where}: the student's last forward pass returned no router loss "
                "(aux_loss); use distillens.forward, or AttachedLens on the model as it is called"
            )
        return loss
