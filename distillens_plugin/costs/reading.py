"""From a recipe to a `Run`: what its keys mean for memory and time."""

import re
from collections.abc import Mapping

from distillens_plugin.costs.activations import Adapters, Shape
from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.lengths import Lengths
from distillens_plugin.costs.precision import Device, precision
from distillens_plugin.costs.run import Cost, Run, adapter_parameters
from distillens_plugin.costs.walk import WalkRows
from distillens_plugin.lens.layers import check_measurable, resolve_pairs
from distillens_plugin.recipe.schema.models import Lora
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError

# What peft adapts where the recipe names no modules; importing peft would load torch.
_LORA_TARGETS: Mapping[str, tuple[str, ...]] = {"gpt2": ("c_attn",)}
_LLAMA_TARGETS = ("q_proj", "v_proj")
_BLOCKS = {"gpt2": "transformer.h.0.", "opt": "model.decoder.layers.0."}
_LLAMA_BLOCKS = "model.layers.0."
# Numbers for each parameter; others are taken to be like Adam.
_MOMENTS = {"SGD": 0, "RMSprop": 1, "Adagrad": 1}


def run_of(
    recipe: Recipe,
    student: Architecture,
    teacher: Architecture | None,
    lengths: Lengths,
    device: Device,
) -> Run:
    """The run that a recipe asks for, on one device.

    Raises:
        DistillensError: layers out of range, or LoRA on modules that the student does not have.
    """
    spec, loader = recipe.models.trained, recipe.train.train_data_loader
    rows, packing = loader.kwargs.batch_size, loader.packing
    length = recipe.datasets.train.max_length if packing else lengths.longest
    supervised = length - 1 if packing else lengths.longest_supervised
    walk, teacher_layers = _walk_rows(recipe, student, teacher)
    theirs = recipe.models.teacher_model
    cost = None
    if teacher is not None and theirs is not None:
        cost = Cost(teacher, precision(theirs.dtype, recipe.mixed_precision, device))
    return Run(
        student=Cost(student, precision(spec.dtype, recipe.mixed_precision, device)),
        adapters=None if spec.lora is None else _adapters(recipe, student, spec.lora),
        checkpointing=spec.gradient_checkpointing,
        teacher=cost,
        teacher_layers=teacher_layers,
        shape=Shape(
            rows=rows,
            length=length,
            padded=packing or (rows > 1 and not lengths.even),
            supervised=rows * supervised,
        ),
        walk=walk,
        moments=_moments(recipe),
        batches=recipe.train.optimizer.grad_accum_step,
        chunk_rows=_chunk_rows(recipe),
    )


def _chunk_rows(recipe: Recipe) -> int | None:
    """The least that the recipe or one of its terms gives; None leaves it to the walk."""
    terms = recipe.train.criterion.kwargs.sub_terms.values()
    own = [term.criterion.kwargs.get("chunk_rows") for term in terms]
    limits = [limit for limit in (recipe.chunk_rows, *own) if isinstance(limit, int)]
    return min(limits, default=None)


def _moments(recipe: Recipe) -> int:
    optimizer = recipe.train.optimizer
    number = _MOMENTS.get(optimizer.key.rpartition(".")[2], 2)
    return number + (1 if number == 0 and optimizer.kwargs.get("momentum") else 0)


def _walk_rows(
    recipe: Recipe, student: Architecture, teacher: Architecture | None
) -> tuple[WalkRows, int]:
    """The walk's rows, and how many of the teacher's residual streams are read."""
    keys = [term.criterion.key for term in recipe.train.criterion.kwargs.sub_terms.values()]
    labels = "distillens.cross_entropy" in keys
    compared = "distillens.logits_kd" in keys
    depth = student.num_layers if teacher is None else teacher.num_layers
    lenses = dict(recipe.lens_terms())
    own, mapped, streams = 0.0, 0.0, set()
    for name, paired in recipe.layer_terms():
        layers = paired.layers.model_dump(exclude_none=True)
        where = recipe.where(f"train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.layers")
        if paired.layers.to_be_measured:
            check_measurable(paired.layers.num_pairs, student.num_layers, depth, where)
            # As many of each model, wherever they are: they cost the same.
            layers = {"auto": paired.layers.num_pairs}
        pairs = resolve_pairs(layers, student.num_layers, depth, where=where)
        streams |= {layer for _, layer in pairs}
        if (lens := lenses.get(name)) is not None:
            # How many positions are above `min_teacher_entropy` is not known before: all of them.
            sets = len(pairs) * lens.positions
            if lens.readout == "teacher":
                mapped += sets
            else:
                own += sets
    rows = WalkRows(
        row_sets=int(labels or compared) + own,
        with_teacher=int(compared) + own + mapped,
        labels=labels,
        by_teacher=mapped,
        entropies=any(lens.reads_entropy for lens in lenses.values()),
    )
    return rows, len(streams)


def _adapters(recipe: Recipe, student: Architecture, lora: Lora) -> Adapters:
    paths = [linear.path for linear in student.modules()]
    wanted = lora.target_modules
    if wanted is None:
        wanted = list(_LORA_TARGETS.get(student.model_type, _LLAMA_TARGETS))
    elsewhere: tuple[str, ...] = ()
    if wanted == "all-linear":
        targets = set(paths)
    elif isinstance(wanted, str):
        # peft matches a text with a module's whole path.
        before = _BLOCKS.get(student.model_type, _LLAMA_BLOCKS)
        targets = {path for path in paths if re.fullmatch(wanted, before + path)}
    else:
        targets = {path for path in paths if any(_ends_in(path, name) for name in wanted)}
        elsewhere = tuple(n for n in wanted if not any(_ends_in(path, n) for path in paths))
    adapters = Adapters(lora.r, frozenset(targets), lora.dropout, elsewhere)
    if adapter_parameters(student, adapters) == 0:
        raise DistillensError(
            f"{recipe.where(f'models.{recipe.trained_role}.lora.target_modules')}: found "
            f"{wanted!r}, none of which is a matrix of a block; expected some of "
            f"{', '.join(sorted({path.rpartition('.')[2] for path in paths}))}"
        )
    return adapters


def _ends_in(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
