"""Loss terms on the final next-token distributions: the teacher's, and the labels.

Each is one group of rows for the fused walk (`fused.walk`), so that no [B, T, V] tensor is made.
"""

from typing import Any

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import Needs, Term


class CrossEntropy(Term):
    """`distillens.cross_entropy`: negative log-likelihood of the supervised tokens, in nats per
    token.
    """

    default_name = "cross_entropy"
    where = "distillens.cross_entropy"
    needs_teacher = False
    needs = Needs(final_states=True, unembedding=True)

    def __init__(self, *, chunk_rows: int | None = None) -> None:
        super().__init__(chunk_rows=chunk_rows)

    def groups(self, reading: Reading) -> list[Group]:
        supervised = reading.supervised
        return [
            Group(
                name=self.default_name,
                student_rows=reading.student.final_rows(supervised),
                labels=supervised.labels,
                divergence=CROSS_ENTROPY,
                denominator=supervised.count,
            )
        ]


class LogitsKD(Term):
    """`distillens.logits_kd`: divergence of the final next-token distributions, in nats per token.

    Args:
        divergence: fkl, rkl, jeffreys (FKL + RKL), jsd, akl, skew_fkl, skew_rkl, tvd,
            alpha_beta or fkl_jsd.
        beta: weight of the teacher in jsd, in [0, 1] (0.5; exactly 0 is FKL and exactly 1 RKL); the
            exponent of the student in alpha_beta (0.7).
        temperature: divides both models' logits; > 0.
        scale_by_temperature_squared: multiply by temperature ** 2 in the loss (Hinton et al. 2015),
            not in the logged value; the paper does not.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.
        divergence_options: further parameters of the divergence (alpha of skew_*, ...).
    """

    default_name = "logits_kd"
    where = "distillens.logits_kd"
    needs = Needs(final_states=True, unembedding=True)

    def __init__(
        self,
        divergence: str = "fkl",
        *,
        beta: float | None = None,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        chunk_rows: int | None = None,
        **divergence_options: Any,
    ) -> None:
        super().__init__(chunk_rows=chunk_rows)
        self.divergence = make_divergence(divergence, beta=beta, **divergence_options)
        self.temperature = temperature
        self.loss_scale = temperature**2 if scale_by_temperature_squared else 1.0

    def groups(self, reading: Reading) -> list[Group]:
        supervised = reading.supervised
        return [
            Group(
                name=self.default_name,
                student_rows=reading.student.final_rows(supervised),
                teacher_rows=reading.teacher.final_rows(supervised).detach(),
                divergence=self.divergence,
                temperature=self.temperature,
                denominator=supervised.count,
            )
        ]
