"""The loss terms of an attached lens, from its arguments."""

from collections.abc import Callable, Mapping
from typing import Any

from distillens_plugin.losses.final_logits import CrossEntropy, LogitsKD
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.losses.router import RouterLoss
from distillens_plugin.losses.term import Term, WeightedTerm
from distillens_plugin.recipe.schema.base import KeyPath, checked
from distillens_plugin.recipe.schema.terms import LensKwargs, LogitsKwargs
from eval_harness.errors import DistillensError

# A divergence's name, or LogitsKD's parameters.
KD = str | Mapping[str, Any]


def lens_term(**parameters: Any) -> DistillLensLoss:
    """`DistillLensLoss`, its parameters checked as those of a recipe are; None is not given.

    Raises:
        DistillensError: the first one that is out of its range or of another type.
    """
    given = {key: _plain(value) for key, value in parameters.items() if value is not None}
    checked(LensKwargs, given, _at("AttachedLens"))
    return DistillLensLoss(**given)


def weighted_terms(
    lens: Term | None,
    lens_weight: float,
    *,
    kd: KD | None,
    kd_weight: float,
    cross_entropy: float,
    router_loss: float,
    more: Mapping[str, tuple[Term, float]],
) -> dict[str, WeightedTerm]:
    """Every term by its name in the log; those of weight 0 are left out.

    Raises:
        DistillensError: a weight below 0, a name given twice, or no term at all.
    """
    known: dict[str, tuple[Term, float]] = {}
    if lens is not None:
        known["lens"] = (lens, _weight("lens_weight", lens_weight))
    if kd is not None:
        known["kd"] = (_logits_kd(kd), _weight("kd_weight", kd_weight))
    known["cross_entropy"] = (CrossEntropy(), _weight("cross_entropy", cross_entropy))
    known["router_loss"] = (RouterLoss(), _weight("router_loss", router_loss))
    for name, (term, weight) in more.items():
        if known.get(name, (None, 0.0))[1]:
            raise DistillensError(f"AttachedLens: terms: {name!r} is already a term; rename it")
        known[name] = (term, _weight(f"terms[{name!r}]", weight))
    terms = {name: WeightedTerm(term, weight) for name, (term, weight) in known.items() if weight}
    if not terms:
        raise DistillensError(
            "AttachedLens: there is no loss term; give layers, kd, cross_entropy or terms"
        )
    return terms


def _logits_kd(kd: KD) -> LogitsKD:
    given = kd if isinstance(kd, str) else {key: _plain(value) for key, value in kd.items()}
    given = {"divergence": given} if isinstance(given, str) else given
    checked(LogitsKwargs, given, _at("AttachedLens: kd"))
    return LogitsKD(**given)


def _at(where: str) -> Callable[[KeyPath], str]:
    return lambda path: ": ".join([where, ".".join(map(str, path))]) if path else where


def _plain(value: Any) -> Any:
    """Lists and dicts in place of what only behaves like them, which the schema would refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise DistillensError(f"AttachedLens: {name} = {value!r}, expected a number >= 0")
    return float(value)
