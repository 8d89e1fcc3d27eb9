"""The lens as a dataclass of plain values, for `HfArgumentParser` and scripts built on it.

On a command line mappings and lists are text: JSON, or the short forms that the help names. From
Python they may be given as they are.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillens_plugin.attached.terms import check_arguments, check_weights_are_read
from distillens_plugin.lens.layers import Layer
from eval_harness.errors import DistillensError


def _help(text: str) -> dict[str, Any]:
    return {"help": text}


@dataclass
class DistillLensArguments:
    """What is distilled, and with which weights; each field is an option of the command line.

    Raises:
        DistillensError: a text that cannot be read, or a value that is out of its range, of another
            type, or for a term that is not there. What depends on the models is checked when the
            trainer attaches the lens.
    """

    layers: dict | str | None = field(
        default="auto:5",
        metadata=_help(
            "Layer pairs: auto:5 for five at equal relative depth; or the student's and the "
            "teacher's, such as 2,4:3,6 (k is the residual stream after k blocks); or none."
        ),
    )
    lens_weight: float = field(default=1.0, metadata=_help("Weight of the lens."))
    norm: str = field(
        default="identity",
        metadata=_help("identity (the paper's code) or final (each model's own final norm first)."),
    )
    divergence: str = field(default="jsd", metadata=_help("Divergence of the lens."))
    beta: float | None = field(
        default=None, metadata=_help("Weight of the teacher in jsd, or the beta of alpha_beta.")
    )
    divergence_options: dict | str | None = field(
        default=None,
        metadata=_help('Further parameters of the lens\'s divergence, such as {"alpha": 0.1}.'),
    )
    temperature: float = field(default=1.0, metadata=_help("Divides both models' lens logits."))
    scale_by_temperature_squared: bool = field(
        default=False, metadata=_help("Multiply the lens by its temperature squared.")
    )
    pair_weights: list | str | None = field(
        default=None, metadata=_help("A weight for each layer pair, such as 1,1,2.")
    )
    detach_unembedding: bool = field(
        default=False, metadata=_help("The lens does not train the student's unembedding.")
    )
    teacher_translators: str | None = field(
        default=None,
        metadata=_help("File of distillens tune-lens: read the teacher through the tuned lens."),
    )
    readout: str = field(
        default="own",
        metadata=_help(
            "Whose norm and unembedding read the student's layers: own or teacher. The Trainer "
            "trains no maps, so teacher takes projection none, and models of equal width."
        ),
    )
    projection: str | None = field(
        default=None, metadata=_help("Of readout teacher: none leaves the student's states as are.")
    )
    positions: float = field(
        default=1.0,
        metadata=_help("Share of the supervised positions that the lens compares in a step."),
    )
    min_teacher_entropy: float | None = field(
        default=None,
        metadata=_help("The lens compares only positions of at least this teacher entropy, nats."),
    )
    weigh_by: str | None = field(
        default=None,
        metadata=_help("teacher_entropy: the lens weighs each position by the teacher's entropy."),
    )
    chunk_rows: int | None = field(
        default=None, metadata=_help("Rows of the vocabulary walk at a time.")
    )
    kd: str | None = field(
        default=None,
        metadata=_help("Divergence of the final distributions, such as fkl; none without it."),
    )
    kd_weight: float = field(default=1.0, metadata=_help("Weight of the term kd."))
    kd_beta: float | None = field(default=None, metadata=_help("As beta, of the term kd."))
    kd_temperature: float = field(default=1.0, metadata=_help("As temperature, of the term kd."))
    kd_options: dict | str | None = field(
        default=None, metadata=_help("As divergence_options, of the term kd.")
    )
    cross_entropy: float = field(
        default=0.0, metadata=_help("Weight of the cross-entropy with the labels.")
    )
    router_loss: float = field(
        default=0.0,
        metadata=_help("Weight of a mixture-of-experts student's auxiliary router loss."),
    )
    trainer_loss: float | None = field(
        default=None,
        metadata=_help(
            "Weight of the loss that the trainer computes without the lens; left alone it is 0 for "
            "transformers' Trainer and 1 for TRL's distillation trainers."
        ),
    )
    headless: bool = field(
        default=True,
        metadata=_help("Run the models without their heads where nothing reads the logits."),
    )

    def __post_init__(self) -> None:
        for name in ("lens_weight", "kd_weight", "cross_entropy", "router_loss", "trainer_loss"):
            weight = getattr(self, name)
            if weight is None and name == "trainer_loss":
                continue
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not is_number or not 0 <= weight < math.inf:
                raise DistillensError(
                    f"DistillLensArguments.{name} = {weight!r}, expected a weight of at least 0"
                )
        if self.kd in ("", "none"):
            self.kd = None
        check_weights_are_read(
            "DistillLensArguments.",
            has_lens=_layers(self.layers) is not None,
            lens_weight=self.lens_weight,
            has_kd=self.kd is not None,
            kd_weight=self.kd_weight,
        )
        unread = {"kd_beta": None, "kd_options": None, "kd_temperature": 1.0}
        for name, default in unread.items():
            if self.kd is None and getattr(self, name) != default:
                raise DistillensError(
                    f"DistillLensArguments.{name} = {getattr(self, name)!r}, but kd is not given; "
                    "name its divergence, such as fkl"
                )
        if self.router_loss and self.trainer_loss:
            raise DistillensError(
                f"DistillLensArguments.router_loss = {self.router_loss!r} with trainer_loss, which "
                "then holds the router loss already; leave one of them out"
            )
        check_arguments(self.attached_lens_options())

    def attached_lens_options(self) -> dict[str, Any]:
        """The keyword arguments of `AttachedLens`, without models and terms."""
        options: dict[str, Any] = {
            "layers": _layers(self.layers),
            "norm": self.norm,
            "divergence": self.divergence,
            "beta": self.beta,
            "temperature": self.temperature,
            "scale_by_temperature_squared": self.scale_by_temperature_squared,
            "pair_weights": _weights(self.pair_weights),
            "detach_unembedding": self.detach_unembedding,
            "teacher_translators": self.teacher_translators,
            "readout": self.readout,
            "projection": self.projection,
            "positions": self.positions,
            "min_teacher_entropy": self.min_teacher_entropy,
            "weigh_by": self.weigh_by,
            "chunk_rows": self.chunk_rows,
            "lens_weight": self.lens_weight,
            "kd": None,
            "kd_weight": self.kd_weight,
            "cross_entropy": self.cross_entropy,
            "router_loss": self.router_loss,
        }
        if self.kd is not None:
            own = {"divergence": self.kd, "beta": self.kd_beta, "temperature": self.kd_temperature}
            options["kd"] = _joined(own, "kd_options", self.kd_options)
        return _joined(options, "divergence_options", self.divergence_options)


def arguments_or_default(given: object) -> DistillLensArguments:
    """A trainer's `distillens`; None is the defaults.

    Raises:
        DistillensError: something else, such as a dict of the fields.
    """
    if given is None:
        return DistillLensArguments()
    if not isinstance(given, DistillLensArguments):
        raise DistillensError(
            f"distillens is of type {type(given).__name__}, expected DistillLensArguments; make "
            "it with DistillLensArguments(layers=..., ...)"
        )
    return given


def _layers(given: object) -> dict[str, Any] | None:
    """`auto:5`, `2,4:3,6`, `none`, or a mapping, as AttachedLens takes it."""
    if given is None or given == "none":
        return None
    if isinstance(given, Mapping):
        return dict(given)
    student, colon, teacher = str(given).partition(":")
    if student == "auto" and teacher.strip().isdigit():
        return {"auto": int(teacher)}
    sides = [_side(side) for side in (student, teacher)]
    if not colon or student == "auto" or ":" in teacher or not all(sides):
        raise DistillensError(
            f"DistillLensArguments.layers = {given!r}, expected auto:5, the student's and the "
            "teacher's layers such as 2,4:3,6, or none"
        )
    return {"student": sides[0], "teacher": sides[1]}


def _side(text: str) -> list[Layer]:
    """The layers of one model; an entry that is not a number is a module's path."""
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries:
        return []
    return [int(entry) if entry.lstrip("-").isdigit() else entry for entry in entries]


def _weights(given: Sequence[float] | str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(x) for x in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError):
        raise DistillensError(
            f"DistillLensArguments.pair_weights = {given!r}, expected numbers such as 1,1,2"
        ) from None


def _joined(options: dict[str, Any], name: str, given: object) -> dict[str, Any]:
    """Options with a divergence's further parameters."""
    more = given
    if isinstance(given, str):
        try:
            more = json.loads(given)
        except ValueError:
            more = None
    if given is not None and not isinstance(more, Mapping):
        raise DistillensError(
            f'DistillLensArguments.{name} = {given!r}, expected a mapping such as {{"alpha": 0.1}}'
        )
    further: Mapping[str, Any] = more if isinstance(more, Mapping) else {}
    for key in further:
        if key in options:
            raise DistillensError(
                f"DistillLensArguments.{name}: {key} has a field of its own; set that"
            )
    return {**options, **further}
