"""What the tables of this package's torchdistill keys hold: a maker, and what checks its kwargs."""

from dataclasses import dataclass

from distillens_plugin.recipe.schema.base import Strict


@dataclass(frozen=True)
class OwnName:
    """A key that this package registers with torchdistill.

    Attributes:
        maker: `package.module:Name`; imported when it is registered, for it loads torch.
        parameters: the keys of its kwargs; None: nothing here can be chosen.
        short: what a recipe may write instead.
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
