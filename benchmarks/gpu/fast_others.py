"""The same loss in other code: the paper's formula written plainly, TRL's, and Liger's.

TRL and Liger-Kernel are needs of this benchmark only; without them their cases say so.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from fast_problem import Problem
from torch import Tensor


def paper(problem: Problem) -> Tensor:
    """Jensen-Shannon as in the paper's code: float32 copies and log(m + eps), the rows at once."""
    problem.clear()
    student = problem.hidden @ problem.weight.t()
    with torch.no_grad():
        teacher = problem.teacher_hidden @ problem.teacher_weight.t()
    q = F.softmax(student, dim=-1, dtype=torch.float32)
    p = F.softmax(teacher, dim=-1, dtype=torch.float32)
    log_m = torch.log(0.5 * p + 0.5 * q + 1e-8)
    from_teacher = p * (F.log_softmax(teacher, dim=-1, dtype=torch.float32) - log_m)
    from_student = q * (F.log_softmax(student, dim=-1, dtype=torch.float32) - log_m)
    loss = (0.5 * from_teacher.sum(-1) + 0.5 * from_student.sum(-1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def trl(problem: Problem) -> Tensor:
    """TRL's chunked divergence (Triton kernels on CUDA)."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    problem.clear()
    student = (problem.hidden, problem.weight, None)
    teacher = (problem.teacher_hidden, problem.teacher_weight, None)
    rows, _entropy = ChunkedDivergenceFunction.apply(*student, *teacher, 0.5)
    loss = rows.mean()
    loss.backward()
    return loss.detach()  # type: ignore[no-any-return]


def liger(problem: Problem, *, compiled: bool) -> Tensor:
    """Liger-Kernel's chunked linear and JSD."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    problem.clear()
    loss_of = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=compiled)
    labels = torch.zeros(problem.hidden.shape[0], dtype=torch.long, device=problem.hidden.device)
    loss = loss_of(
        problem.hidden, problem.weight, problem.teacher_hidden, problem.teacher_weight, labels
    )
    loss.backward()
    return loss.detach()  # type: ignore[no-any-return]


COMPILED = "Liger compiled"
# The strongest first: the time may be up before the last.
OTHERS: dict[str, Callable[[Problem], Tensor]] = {
    "TRL": trl,
    COMPILED: lambda problem: liger(problem, compiled=True),
    "Liger": lambda problem: liger(problem, compiled=False),
    "paper": paper,
}
