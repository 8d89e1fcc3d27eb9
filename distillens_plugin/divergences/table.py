"""The table of divergences: a name, what makes it, and its parameters. Loads no torch.

A new divergence is one entry here; a user's own module adds its own with `register_divergence`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillens_plugin.divergences import parameters as p
from distillens_plugin.divergences.parameters import Parameter
from distillens_plugin.tables.makers import path_of, resolve
from eval_harness.shared.near import near_names

if TYPE_CHECKING:
    from distillens_plugin.divergences.protocol import Divergence

Maker = Callable[..., "Divergence"]
ParameterValue = float | Sequence[float] | None

# Recipe keys that stand beside a divergence's parameters and have another meaning.
RESERVED = frozenset(
    {
        "divergence",
        "temperature",
        "scale_by_temperature_squared",
        "chunk_rows",
        "layers",
        "pair_weights",
        "norm",
        "detach_unembedding",
        "teacher_translators",
        "readout",
        "projection",
        "projection_of",
        "seed",
        "positions",
        "min_teacher_entropy",
        "weigh_by",
    }
)


@dataclass(frozen=True)
class Entry:
    """One divergence.

    Attributes:
        maker: called with the parameters by keyword, or the dotted path of that,
            `package.module:Name`.
        meaning: a phrase for the documentation.
        parameters: by name.
        check: for what ranges cannot express; called like the maker, raises ValueError.
        aliases: other names.
    """

    maker: str | Maker
    meaning: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    aliases: tuple[str, ...] = ()

    def make(self, given: Mapping[str, Any]) -> "Divergence":
        """The divergence object; parameters that are not given have their defaults.

        Raises:
            ValueError: a parameter out of its range.
        """
        values = {name: given.get(name, known.default) for name, known in self.parameters.items()}
        if self.check is not None:
            self.check(**values)
        for name, known in self.parameters.items():
            known.check(name, values[name])
            if isinstance(values[name], list):
                values[name] = tuple(values[name])  # objects are hashed
        maker: Maker = resolve(self.maker) if isinstance(self.maker, str) else self.maker
        return maker(**values)


_KL = "distillens_plugin.divergences.kl"
_MIXTURES = "distillens_plugin.divergences.mixtures"
_POWERS = "distillens_plugin.divergences.powers"
_SWITCHING = "distillens_plugin.divergences.switching"

_TABLE: dict[str, Entry] = {
    "jsd": Entry(f"{_MIXTURES}:JensenShannon", "generalised Jensen-Shannon", {"beta": p.JSD_BETA}),
    "fkl": Entry(f"{_KL}:ForwardKL", "forward KL, teacher to student"),
    "rkl": Entry(f"{_KL}:ReverseKL", "reverse KL, student to teacher"),
    "jeffreys": Entry(
        f"{_KL}:Jeffreys.of",
        "forward KL plus reverse KL",
        {"coefficients": p.COEFFICIENTS},
        check=p.check_coefficients,
        aliases=("fkl+rkl",),
    ),
    "skew_fkl": Entry(
        f"{_MIXTURES}:SkewForwardKL",
        "forward KL to a mixture of both",
        {"alpha": p.FORWARD_SKEW},
    ),
    "skew_rkl": Entry(
        f"{_MIXTURES}:SkewReverseKL",
        "reverse KL to a mixture of both",
        {"alpha": p.REVERSE_SKEW},
    ),
    "akl": Entry(
        f"{_KL}:AdaptiveKL",
        "adaptive mixture of forward and reverse KL",
        {"head_mass": p.HEAD_MASS},
    ),
    "tvd": Entry(f"{_POWERS}:TotalVariation", "total variation distance"),
    "alpha_beta": Entry(
        f"{_POWERS}:AlphaBeta",
        "ABKD's alpha-beta divergence",
        {"alpha": p.TEACHER_EXPONENT, "beta": p.STUDENT_EXPONENT},
        check=p.check_alpha_beta,
    ),
    "fkl_jsd": Entry(
        f"{_SWITCHING}:FarForwardKL",
        "forward KL where the two are far apart, generalised Jensen-Shannon where they are near",
        {"beta": p.INNER_BETA},
    ),
}
DIVERGENCES: tuple[str, ...] = tuple(_TABLE)


def divergence_names(*, aliases: bool = False) -> tuple[str, ...]:
    """Every name that is known now, including registered ones."""
    if not aliases:
        return tuple(_TABLE)
    return tuple(known for name, entry in _TABLE.items() for known in (name, *entry.aliases))


def divergence_entry(name: str) -> Entry:
    """The entry of a name or an alias.

    Raises:
        ValueError: an unknown name.
    """
    for known, entry in _TABLE.items():
        if name == known or name in entry.aliases:
            return entry
    raise ValueError(
        f"divergence = {name!r}, expected one of {', '.join(_TABLE)}{near_names(name, _TABLE)}"
    )


def readers(parameter: str) -> tuple[str, ...]:
    """The divergences that read a parameter."""
    return tuple(name for name, entry in _TABLE.items() if parameter in entry.parameters)


def make_divergence(name: str, **parameters: ParameterValue) -> "Divergence":
    """A divergence object from its name.

    Each name reads only its own parameters, so that one set can be kept while the name is changed.

    Args:
        name: one of `divergence_names()`; "fkl+rkl" is another name for "jeffreys".
        parameters: by keyword, None for the default; docs/recipe_keys.md lists them. `beta` of jsd,
            fkl_jsd and alpha_beta, `alpha` of skew_fkl, skew_rkl and alpha_beta, `coefficients` of
            jeffreys, `head_mass` of akl.
    Raises:
        ValueError: an unknown name, a parameter that no divergence reads, or one of this divergence
            out of its range.
    """
    entry = divergence_entry(name)
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in given:
        if not readers(key):
            known = sorted({key for entry in _TABLE.values() for key in entry.parameters})
            raise ValueError(
                f"{key} is not a parameter of any divergence, expected one of {', '.join(known)}"
                f"{near_names(key, known)}"
            )
    return entry.make(given)


def register_divergence(
    name: str,
    maker: str | Maker,
    *,
    parameters: Mapping[str, Parameter] | None = None,
    meaning: str = "",
    check: Callable[..., None] | None = None,
) -> None:
    """Adds a divergence to the table; a recipe then names it like those of this package.

    For a module that the recipe lists under `dependencies` and that --trust-recipe lets run.
    Registering one again changes nothing.

    Args:
        name: as recipes write it.
        maker: called with the parameters by keyword, gives a `Divergence`; or its dotted path,
            `package.module:Name`.
        parameters: defaults and ranges by name.
        meaning: a phrase for the documentation.
        check: for what ranges cannot express; called like the maker, raises ValueError.
    Raises:
        ValueError: the name is taken, or a parameter's name is a key of the loss terms.
    """
    if not name or not isinstance(name, str):
        raise ValueError(f"divergence name = {name!r}, expected a non-empty string")
    taken = next((e for k, e in _TABLE.items() if name == k or name in e.aliases), None)
    if taken is not None and path_of(taken.maker) != path_of(maker):
        raise ValueError(
            f"the divergence {name!r} is already {path_of(taken.maker)}; choose another name"
        )
    clash = sorted(RESERVED.intersection(parameters or {}))
    if clash:
        raise ValueError(
            f"the divergence {name!r} has a parameter {clash[0]!r}, which is a key of the loss "
            "terms; rename it"
        )
    if taken is None:
        _TABLE[name] = Entry(maker, meaning, dict(parameters or {}), check)
