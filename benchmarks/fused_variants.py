"""What benchmarks/fused.py compares: the matrix-product floor, the fused lens, the alternatives.

Legend: R rows (supervised positions x layer pairs), D width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distillens_plugin.fused import lens_divergence
from distillens_plugin.fused.plan import default_chunk_rows

STUDENT_WIDTH, TEACHER_WIDTH = 768, 1600
# The reference computes every padded position, of which a third is supervised.
POSITIONS_PER_SUPERVISED = 3


class Problem:
    """Random heads and rows in the sizes of GPT-2 120M distilled from 1.5B.

    Args:
        rows: R; spread: standard deviation of the logits.
    """

    def __init__(
        self,
        rows: int,
        vocab: int,
        *,
        spread: float = 3.0,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * std).to(dtype)

        self.rows, self.vocab = rows, vocab
        self.hidden = normal(rows, STUDENT_WIDTH, std=spread).requires_grad_()
        self.weight = normal(vocab, STUDENT_WIDTH, std=STUDENT_WIDTH**-0.5).requires_grad_()
        self.teacher_hidden = normal(rows, TEACHER_WIDTH, std=spread)
        self.teacher_weight = normal(vocab, TEACHER_WIDTH, std=TEACHER_WIDTH**-0.5)

    def clear(self) -> None:
        """Drop the gradients, as an optimizer's zero_grad does before the next step."""
        self.hidden.grad = self.weight.grad = None


def fused(problem: Problem, divergence: str, **options: object) -> Tensor:
    """Forward and backward of the fused lens."""
    loss = lens_divergence(
        problem.hidden,
        problem.weight,
        problem.teacher_hidden,
        problem.teacher_weight,
        divergence=divergence,
        **options,  # type: ignore[arg-type]
    )
    loss.backward()
    return loss.detach()


def make_floor(problem: Problem) -> Callable[[], None]:
    """The four matrix products that any exact method must do, same chunks, in reused memory."""
    most = default_chunk_rows(problem.vocab, torch.device("cpu"), torch.float32)
    chunk = -(-problem.rows // -(-problem.rows // most))
    student_logits = torch.randn(chunk, problem.vocab)
    teacher_logits = torch.empty(chunk, problem.vocab)
    weight_gradient = torch.zeros(problem.vocab, STUDENT_WIDTH)
    rows_gradient = torch.empty(problem.rows, STUDENT_WIDTH)
    hidden, weight = problem.hidden.detach(), problem.weight.detach()

    def floor() -> None:
        for start in range(0, problem.rows, chunk):
            rows = slice(start, min(start + chunk, problem.rows))
            size = rows.stop - rows.start
            torch.mm(
                problem.teacher_hidden[rows], problem.teacher_weight.t(), out=teacher_logits[:size]
            )
            torch.mm(hidden[rows], weight.t(), out=student_logits[:size])
            torch.mm(student_logits[:size], weight, out=rows_gradient[rows])
            weight_gradient.addmm_(student_logits[:size].t(), hidden[rows])

    return floor


def reference_style(problem: Problem) -> Tensor:
    """Jensen-Shannon as in the paper's code: all positions, float32 copies, log(m + eps).

    `problem` holds all padded positions; the mask keeps one in three.
    """
    mask = torch.arange(problem.rows) % POSITIONS_PER_SUPERVISED == 0
    student_logits = problem.hidden @ problem.weight.t()
    with torch.no_grad():
        teacher_logits = problem.teacher_hidden @ problem.teacher_weight.t()
    student_probs = F.softmax(student_logits, dim=-1, dtype=torch.float32)
    teacher_probs = F.softmax(teacher_logits, dim=-1, dtype=torch.float32)
    mixture = 0.5 * teacher_probs + 0.5 * student_probs
    log_mixture = torch.log(mixture + 1e-8)
    student_part = student_probs * (
        F.log_softmax(student_logits, dim=-1, dtype=torch.float32) - log_mixture
    )
    teacher_part = teacher_probs * (
        F.log_softmax(teacher_logits, dim=-1, dtype=torch.float32) - log_mixture
    )
    rows = 0.5 * teacher_part.sum(-1) + 0.5 * student_part.sum(-1)
    loss = (rows * mask).sum() / mask.sum()
    loss.backward()
    return loss.detach()


def supervised_first(problem: Problem) -> Tensor:
    """Plain autograd over the supervised rows only."""
    loss = lens_divergence.naive(  # type: ignore[attr-defined]
        problem.hidden, problem.weight, problem.teacher_hidden, problem.teacher_weight
    )
    loss.backward()
    return loss.detach()


def make_liger(*, compiled: bool) -> Callable[[Problem], Tensor]:
    """Liger-Kernel's chunked linear + JSD as shipped.

    Raises:
        ImportError: liger-kernel is not installed (a dependency of this benchmark only).
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss_of = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=compiled)

    def liger(problem: Problem) -> Tensor:
        labels = torch.zeros(problem.rows, dtype=torch.long)
        loss = loss_of(
            problem.hidden, problem.weight, problem.teacher_hidden, problem.teacher_weight, labels
        )
        loss.backward()
        return loss.detach()

    return liger
