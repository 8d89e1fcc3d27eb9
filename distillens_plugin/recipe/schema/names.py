"""Every kind of name that torchdistill keeps a registry of: ours and torchdistill's.

`integrations/torchdistill/registry.py` registers ours from here, and the schema refuses a key that
is neither ours, nor torchdistill's, nor registered by a module that has been imported.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from pydantic import AfterValidator

from distillens_plugin.recipe.schema import torchdistill_names as theirs
from distillens_plugin.recipe.schema.base import KeyPath, complain, did_you_mean, show
from distillens_plugin.recipe.schema.entries import OwnName
from distillens_plugin.recipe.schema.optimiser_kwargs import OPTIMIZERS, SCHEDULES
from distillens_plugin.recipe.schema.terms import TERMS

_MAX_LISTED = 12


@dataclass(frozen=True)
class Kind:
    """One kind of name.

    Attributes:
        what: its name in errors.
        register: torchdistill's function that registers a name.
        registries: torchdistill's dictionaries of them.
        own: what this package registers.
        theirs: what torchdistill itself registers.
        unusable: what else its registries hold.
    """

    what: str
    register: str
    registries: tuple[str, ...]
    own: Mapping[str, OwnName] = field(default_factory=dict)
    theirs: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()

    def known(self) -> list[str]:
        """Every name that a recipe can use now, ours first; short forms instead of long ones."""
        own = [name.short or key for key, name in self.own.items()]
        live = [key for key in self.registered() if key not in self.unusable]
        return [key for key in dict.fromkeys([*own, *self.theirs, *live]) if key not in self._long]

    def registered(self) -> list[str]:
        """What torchdistill's registries hold now; empty if torchdistill is not loaded."""
        keys: list[str] = []
        for path in self.registries:
            module, _, name = path.partition(":")
            if module in sys.modules:
                keys += getattr(sys.modules[module], name, {})
        return keys

    @property
    def _long(self) -> list[str]:
        return [key for key, name in self.own.items() if name.short is not None]

    def own_key(self, key: str) -> str | None:
        """The registered key of one of ours, from that key or its short form; None for others."""
        return next((full for full, own in self.own.items() if key in (full, own.short)), None)

    def check(self, key: str, *, at: KeyPath = ()) -> str:
        """The key, in its short form; refuses an unknown one.

        Args:
            at: keys below the value that the validator was given.
        """
        own = self.own_key(key)
        if own is not None:
            return self.own[own].short or own
        known = self.known()
        if key not in known:
            self._refuse(key, known, at)
        return key

    def _refuse(self, key: str, known: list[str], at: KeyPath) -> NoReturn:
        listed = ", ".join(known[:_MAX_LISTED]) + (" ..." if len(known) > _MAX_LISTED else "")
        hint = did_you_mean(key, known) or (
            f"expected {listed}, or name the module that registers it under dependencies"
        )
        wrong = "a recipe cannot use as" if key in self.unusable else "is not a known"
        complain(f"found {show(key)}, which {wrong} {self.what}; {hint}", at=at)

    @property
    def validator(self) -> AfterValidator:
        """For a field's type: Annotated[str, OPTIMIZER.validator]."""
        return AfterValidator(self.check)


_LOSSES = "torchdistill.losses.registry"
_DATA = "torchdistill.datasets.registry"
_PROCESSES = "torchdistill.core.interfaces.registry"
_OPTIM = "torchdistill.optim.registry"
_OURS = "distillens_plugin.integrations.torchdistill"

LOSS_TERM = Kind(
    "loss term",
    f"{_LOSSES}:register_mid_level_loss",
    (
        f"{_LOSSES}:MIDDLE_LEVEL_LOSS_DICT",
        f"{_LOSSES}:LOSS_DICT",
        f"{_LOSSES}:LOW_LEVEL_LOSS_DICT",
    ),
    TERMS,
    (*theirs.MID_LEVEL_LOSSES, *theirs.LOW_LEVEL_LOSSES),
    theirs.NO_LOSSES,
)
LOSS_WRAPPER = Kind(
    "loss wrapper",
    f"{_LOSSES}:register_loss_wrapper",
    (f"{_LOSSES}:LOSS_WRAPPER_DICT",),
    theirs=theirs.LOSS_WRAPPERS,
)
OWN_SUM = "distillens.weighted_sum"
NO_MODEL_LOSS = "distillens.no_model_loss"
CRITERION = Kind(
    "criterion",
    f"{_LOSSES}:register_high_level_loss",
    (f"{_LOSSES}:HIGH_LEVEL_LOSS_DICT",),
    {OWN_SUM: OwnName("distillens_plugin.losses.weighted_sum:WeightedSum")},
    theirs.HIGH_LEVEL_LOSSES,
)
MODEL_LOSS_FUNCTION = Kind(
    "function that reads losses from a model's output",
    f"{_LOSSES}:register_func2extract_model_output",
    (f"{_LOSSES}:FUNC2EXTRACT_MODEL_OUTPUT_DICT",),
    {NO_MODEL_LOSS: OwnName(f"{_OURS}.registry:no_model_loss")},
    theirs.MODEL_LOSS_FUNCTIONS,
)
FORWARD_PROC = Kind(
    "forward procedure",
    f"{_PROCESSES}:register_forward_proc_func",
    (f"{_PROCESSES}:FORWARD_PROC_FUNC_DICT",),
    {
        "distillens.forward": OwnName("distillens_plugin.lens.forward:forward"),
        "distillens.forward_with_logits": OwnName(
            "distillens_plugin.lens.forward:forward_with_logits"
        ),
    },
    theirs.FORWARD_PROCS,
)
# The runner has its own loop, so a recipe has no key for these; its full form names them.
PRE_EPOCH_PROCESS = Kind(
    "pre-epoch process",
    f"{_PROCESSES}:register_pre_epoch_proc_func",
    (f"{_PROCESSES}:PRE_EPOCH_PROC_FUNC_DICT",),
    {"distillens.pre_epoch": OwnName(f"{_OURS}.processes:pre_epoch")},
)
POST_FORWARD_PROCESS = Kind(
    "post-forward process",
    f"{_PROCESSES}:register_post_forward_proc_func",
    (f"{_PROCESSES}:POST_FORWARD_PROC_FUNC_DICT",),
    {"distillens.post_forward": OwnName(f"{_OURS}.processes:post_forward")},
)
COLLATE_FUNCTION = Kind(
    "collate function",
    f"{_DATA}:register_collate_func",
    (f"{_DATA}:COLLATE_FUNC_DICT",),
    {"distillens.collate": OwnName("distillens_plugin.data.collate:collate")},
    theirs.COLLATE_FUNCTIONS,
)
BATCH_SAMPLER = Kind(
    "batch sampler",
    f"{_DATA}:register_batch_sampler",
    (f"{_DATA}:BATCH_SAMPLER_DICT",),
    {
        "distillens.length_grouped": OwnName(
            "distillens_plugin.data.length_batches:LengthGroupedBatchSampler"
        )
    },
    theirs.BATCH_SAMPLERS,
    theirs.NO_BATCH_SAMPLERS,
)
OPTIMIZER = Kind(
    "optimizer",
    f"{_OPTIM}:register_optimizer",
    (f"{_OPTIM}:OPTIM_DICT",),
    OPTIMIZERS,
    theirs.OPTIMIZERS,
    theirs.NO_OPTIMIZERS,
)
SCHEDULER = Kind(
    "scheduler",
    f"{_OPTIM}:register_scheduler",
    (f"{_OPTIM}:SCHEDULER_DICT",),
    SCHEDULES,
    theirs.SCHEDULERS,
    theirs.NO_SCHEDULERS,
)
KINDS = (
    LOSS_TERM,
    LOSS_WRAPPER,
    CRITERION,
    MODEL_LOSS_FUNCTION,
    FORWARD_PROC,
    PRE_EPOCH_PROCESS,
    POST_FORWARD_PROCESS,
    COLLATE_FUNCTION,
    BATCH_SAMPLER,
    OPTIMIZER,
    SCHEDULER,
)
