"""The loss terms of an attached lens, from its arguments."""

from collections.abc import Callable, Mapping
from typing import Any

from distillens_plugin.lens.layers import not_measured
from distillens_plugin.losses.final_logits import CrossEntropy, LogitsKD
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.losses.router import RouterLoss
from distillens_plugin.losses.term import LayerSpec, Term, WeightedTerm
from distillens_plugin.recipe.schema.base import KeyPath, checked
from distillens_plugin.recipe.schema.terms import LensKwargs, LogitsKwargs
from eval_harness.errors import DistillensError

# A divergence's name, or LogitsKD's parameters.
KD = str | Mapping[str, Any]

# Of the lens's parameters; those not named are None.
_DEFAULTS = {
    "norm": "identity",
    "divergence": "jsd",
    "temperature": 1.0,
    "readout": "own",
    "positions": 1.0,
}
_NOT_OF_LENS = frozenset(
    ("layers", "lens_weight", "kd", "kd_weight", "cross_entropy", "router_loss", "chunk_rows")
)


def lens_term(layers: LayerSpec | None, parameters: Mapping[str, Any]) -> DistillLensLoss | None:
    """`DistillLensLoss`, its parameters checked as those of a recipe are; without layers None.

    Raises:
        DistillensError: the first one that is out of its range or of another type, or that is given
            without layers, so that nothing would read it.
    """
    if layers is None:
        for key, value in parameters.items():
            if value is not False and value != _DEFAULTS.get(key):
                raise DistillensError(
                    f"AttachedLens: {key} = {value!r} is for the lens, but layers is None; give "
                    "layers, or leave it out (kd takes its own, as a mapping)"
                )
        return None
    given = {key: _plain(value) for key, value in parameters.items() if value is not None}
    given["layers"] = _plain(layers)
    pairs = checked(LensKwargs, given, _at("AttachedLens")).layers
    if pairs.to_be_measured:
        raise not_measured(pairs.auto, "AttachedLens: layers")
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
        DistillensError: a weight below 0 or of a term that is not there, a name given twice, or no
            term at all.
    """
    check_weights_are_read(
        "AttachedLens: ",
        has_lens=lens is not None,
        lens_weight=lens_weight,
        has_kd=kd is not None,
        kd_weight=kd_weight,
    )
    known: dict[str, tuple[Term, float]] = {}
    if lens is not None:
        known["lens"] = (lens, _weight("lens_weight", lens_weight))
    if kd is not None:
        known["kd"] = (_logits_kd(kd), _weight("kd_weight", kd_weight))
    known["cross_entropy"] = (CrossEntropy(), _weight("cross_entropy", cross_entropy))
    known["router_loss"] = (RouterLoss(), _weight("router_loss", router_loss))
    for name, (term, weight) in _given_terms(more).items():
        if known.get(name, (None, 0.0))[1]:
            raise DistillensError(f"AttachedLens: terms: {name!r} is already a term; rename it")
        known[name] = (term, _weight(f"terms[{name!r}]", weight))
    terms = {name: WeightedTerm(term, weight) for name, (term, weight) in known.items() if weight}
    if not terms:
        raise DistillensError(
            "AttachedLens: there is no loss term; give layers, kd, cross_entropy or terms"
        )
    return terms


def check_weights_are_read(
    where: str, *, has_lens: bool, lens_weight: float, has_kd: bool, kd_weight: float
) -> None:
    """Refuses a weight, other than 1, of a term that is not there.

    Args:
        where: what stands before the argument's name.
    Raises:
        DistillensError: nothing would read the weight.
    """
    if not has_lens and lens_weight != 1:
        raise DistillensError(
            f"{where}lens_weight = {lens_weight!r}, but layers are none, so that there is no lens; "
            "give layers, or leave it out"
        )
    if not has_kd and kd_weight != 1:
        raise DistillensError(
            f"{where}kd_weight = {kd_weight!r}, but kd is not given; name its divergence, such as "
            "fkl, or leave it out"
        )


def check_arguments(options: Mapping[str, Any]) -> None:
    """Checks what needs no model of `AttachedLens`'s keyword arguments, before one is loaded.

    Raises:
        DistillensError: as `lens_term`, `checked_chunk_rows`, and for the parameters of `kd`.
    """
    of_lens = {key: value for key, value in options.items() if key not in _NOT_OF_LENS}
    lens_term(options["layers"], of_lens)
    checked_chunk_rows(options["chunk_rows"])
    if options["kd"] is not None:
        _logits_kd(options["kd"])


def checked_chunk_rows(value: int | None) -> int | None:
    """The number of rows; refused here, before a model runs."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is not None and not is_count:
        raise DistillensError(
            f"AttachedLens: chunk_rows = {value!r}, expected a whole number >= 1, or None"
        )
    return value


def _given_terms(more: object) -> Mapping[str, tuple[Term, float]]:
    if not isinstance(more, Mapping):
        raise DistillensError(
            f"AttachedLens: terms is of type {type(more).__name__}, expected a mapping of names to "
            "(term, weight)"
        )
    for name, entry in more.items():
        is_pair = isinstance(entry, tuple | list) and len(entry) == 2
        # By what it offers: torchdistill's own losses read what is not recorded here.
        if not is_pair or not hasattr(entry[0], "weighted_pairs"):
            raise DistillensError(
                f"AttachedLens: terms[{name!r}] = {entry!r}, expected a loss term of "
                "distillens_plugin and its weight, as (term, weight)"
            )
    return more


def _logits_kd(kd: KD) -> LogitsKD:
    if not isinstance(kd, str | Mapping):
        raise DistillensError(
            f"AttachedLens: kd = {kd!r}, expected a divergence such as 'fkl', or a mapping of "
            "LogitsKD's parameters"
        )
    mapping = {"divergence": kd} if isinstance(kd, str) else kd
    given = {key: _plain(value) for key, value in mapping.items()}
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
        todo = "; only distillens run measures it, from a recipe" if value == "auto" else ""
        raise DistillensError(f"AttachedLens: {name} = {value!r}, expected a number >= 0{todo}")
    return float(value)
