"""The table of this package's loss terms, and their parameters as a recipe gives them."""

from typing import Literal

from pydantic import Field, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    NonNegative,
    PathName,
    Seed,
    Share,
    Strict,
    complain,
)
from distillens_plugin.recipe.schema.divergence import NAMES, DivergenceKwargs, DivergenceName
from distillens_plugin.recipe.schema.entries import TermName
from distillens_plugin.recipe.schema.layers import PairedKwargs


class LensKwargs(DivergenceKwargs, PairedKwargs):
    """Parameters of `DistillLensLoss`."""

    norm: Literal["identity", "final"] = Field(
        default="identity",
        description="norm before the unembedding: identity, none (as in the paper's code); final, "
        "each model's own final norm",
    )
    divergence: DivergenceName = Field(default="jsd", description=NAMES)
    detach_unembedding: bool = Field(
        default=False, description="keep this term from training the student's unembedding"
    )

    teacher_translators: PathName | None = Field(
        default=None,
        description="file from `distillens tune-lens`, to read the teacher through the tuned lens; "
        "needs norm: final",
    )
    readout: Literal["own", "teacher"] = Field(
        default="own",
        description="whose final norm and unembedding read the student's layers: own, the "
        "student's; teacher, the teacher's, after a trained map into its residual stream",
    )
    projection: Literal["per_pair", "shared", "none"] | None = Field(
        default=None,
        description="of readout: teacher: trained affine maps from the student's width to the "
        "teacher's: one per layer pair (null), one shared by all, or none (for equal widths)",
    )
    projection_of: str | None = Field(
        default=None,
        description="of readout: teacher: the name of a term with a projection over the same layer "
        "pairs, whose maps this term uses and trains too",
    )
    seed: Seed | None = Field(
        default=None,
        description="of readout: teacher: seed of the maps' initial values; by default the "
        "recipe's",
    )
    positions: Share = Field(
        default=1.0,
        description="share of the supervised positions that a step compares, drawn at random; the "
        "loss stays an estimate without bias, and the lens costs that share",
    )
    min_teacher_entropy: NonNegative | None = Field(
        default=None,
        description="compare only positions where the teacher's final distribution has at least "
        "this entropy, in nats; null: all",
    )
    weigh_by: Literal["teacher_entropy"] | None = Field(
        default=None,
        description="teacher_entropy: each position counts as much as the teacher's final "
        "distribution has entropy, in nats; null: all count 1",
    )

    @property
    def teacher_files(self) -> dict[str, str]:
        path = self.teacher_translators
        return {} if path is None else {"teacher_translators": path}

    @property
    def draws_maps(self) -> bool:
        return self.readout == "teacher" and self.projection_of is None

    @property
    def reads_entropy(self) -> bool:
        """Whether the teacher's final states are read for their entropy."""
        return self.min_teacher_entropy is not None or self.weigh_by is not None

    @model_validator(mode="after")
    def _consistent(self) -> "LensKwargs":
        if self.teacher_translators is not None and self.norm != "final":
            complain(
                f"found {self.norm} with teacher_translators, which are trained through the final "
                "norm; set norm: final",
                at=("norm",),
            )
        if self.readout == "own":
            for key in ("projection", "projection_of", "seed"):
                if getattr(self, key) is not None:
                    complain(
                        "is read with readout: teacher only; add that, or delete the key", at=(key,)
                    )
        elif self.detach_unembedding:
            complain(
                "has no effect with readout: teacher, which does not read the student's "
                "unembedding; delete the key",
                at=("detach_unembedding",),
            )
        elif self.projection_of is not None:
            for key in ("projection", "seed"):
                if getattr(self, key) is not None:
                    complain(
                        f"has no effect with projection_of: {self.projection_of}, whose maps are "
                        "used; delete one of the two keys",
                        at=(key,),
                    )
        return self


class LogitsKwargs(DivergenceKwargs):
    """Parameters of `distillens.logits_kd`."""

    divergence: DivergenceName = Field(default="fkl", description=NAMES)


class CrossEntropyKwargs(Strict):
    """Parameters of `distillens.cross_entropy`."""

    chunk_rows: Count | None = Field(
        default=None,
        description="rows at a time in the pass over the vocabulary, in which the least of its "
        "terms' counts; null chooses by vocabulary and device",
    )


class ProjectedKwargs(PairedKwargs):
    """Parameters of terms with a trained projection."""

    projection: Literal["per_pair", "shared", "none"] = Field(
        default="per_pair",
        description="trained affine maps from the student's width to the teacher's: one per layer "
        "pair, one shared by all, or none (for models of equal width)",
    )
    seed: Seed | None = Field(
        default=None, description="seed of the maps' initial values; by default the recipe's"
    )

    @property
    def draws_maps(self) -> bool:
        return True


class MSEKwargs(ProjectedKwargs):
    """Parameters of `distillens.hidden_mse`."""

    metric: Literal["identity", "unembedding", "inverse_unembedding", "fisher"] = Field(
        default="identity",
        description="how much each direction of the error counts: identity, all equally; "
        "unembedding, most those that move the teacher's logits; inverse_unembedding, least those; "
        "fisher, most those that the rest of the teacher notices",
    )
    metric_file: PathName | None = Field(
        default=None, description="of metric: fisher: a file from `distillens teacher-fisher`"
    )

    @property
    def teacher_files(self) -> dict[str, str]:
        return {} if self.metric_file is None else {"metric_file": self.metric_file}

    @model_validator(mode="after")
    def _file_of_fisher(self) -> "MSEKwargs":
        if self.metric == "fisher" and self.metric_file is None:
            complain(
                "missing with metric: fisher; expected a file from `distillens teacher-fisher`",
                at=("metric_file",),
            )
        if self.metric != "fisher" and self.metric_file is not None:
            complain(
                "is read with metric: fisher only; set that, or delete the key",
                at=("metric_file",),
            )
        return self


class SimilarityKwargs(PairedKwargs):
    """Parameters of `distillens.gram` and `distillens.cka`."""


class RouterKwargs(Strict):
    """Parameters of `distillens.router_loss`: it has none."""


_LOSSES = "distillens_plugin.losses"
# The loss terms of this package. A new one is an entry here and the class that it names.
TERMS: dict[str, TermName] = {
    "DistillLensLoss": TermName(f"{_LOSSES}.lens:DistillLensLoss", LensKwargs),
    "distillens.logits_kd": TermName(f"{_LOSSES}.final_logits:LogitsKD", LogitsKwargs),
    "distillens.cross_entropy": TermName(
        f"{_LOSSES}.final_logits:CrossEntropy", CrossEntropyKwargs, needs_teacher=False
    ),
    "distillens.hidden_mse": TermName(f"{_LOSSES}.hidden:HiddenMSE", MSEKwargs),
    "distillens.hidden_cosine": TermName(f"{_LOSSES}.hidden:HiddenCosine", ProjectedKwargs),
    "distillens.gram": TermName(f"{_LOSSES}.similarity:GramAlignment", SimilarityKwargs),
    "distillens.cka": TermName(f"{_LOSSES}.similarity:CKA", SimilarityKwargs),
    "distillens.router_loss": TermName(
        f"{_LOSSES}.router:RouterLoss", RouterKwargs, needs_teacher=False
    ),
}
