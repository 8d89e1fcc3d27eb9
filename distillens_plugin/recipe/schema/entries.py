"""Entries in the tables of this package's torchdistill keys: a maker, and a check of its kwargs."""

from dataclasses import dataclass

from distillens_plugin.recipe.schema.base import Strict


@dataclass(frozen=True)
class OwnName:
    """A key that this package registers with torchdistill.

    Attributes:
        maker: `package.module:Name`; imported only when it is registered, as it loads torch.
        parameters: the keys of its kwargs; None if it has none to choose.
        short: a shorter name for recipes.
    """

    maker: str
    parameters: type[Strict] | None = None
    short: str | None = None


@dataclass(frozen=True)
class TermName(OwnName):
    """A loss term.

    Attributes:
        needs_teacher: it compares the student with a teacher.
    """

    needs_teacher: bool = True
