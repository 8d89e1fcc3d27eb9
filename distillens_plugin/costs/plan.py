"""`distillens plan`: every sharding of a recipe, what it takes, and whether it fits."""

from dataclasses import dataclass

from distillens_plugin.costs.changes import smallest_change
from distillens_plugin.costs.flops import Flops, row_flops
from distillens_plugin.costs.lengths import Lengths, recipe_lengths
from distillens_plugin.costs.models import recipe_architectures
from distillens_plugin.costs.precision import Device
from distillens_plugin.costs.reading import run_of
from distillens_plugin.costs.run import Run
from distillens_plugin.costs.shardings import Memory, Placement, Sharding, memory
from distillens_plugin.models.hub import Hub
from distillens_plugin.recipe.schema.recipe import Recipe


@dataclass(frozen=True)
class Machine:
    """What the run is to fit on.

    Attributes:
        devices: of a node.
        memory: bytes of a device; reserve: of these, what is not ours.
        tflops: 10^12 FLOPs a second of a device; None: no time is told.
        mfu: share of them that training reaches.
    """

    devices: int
    nodes: int
    memory: float
    reserve: float
    device: Device
    tflops: float | None
    mfu: float

    @property
    def limit(self) -> float:
        return self.memory - self.reserve

    @property
    def all_devices(self) -> int:
        return self.devices * self.nodes


@dataclass(frozen=True)
class Choice:
    """One way to place student and teacher; `change` is what makes it fit, if it does not."""

    sharding: Sharding
    teacher: Placement
    memory: Memory
    fits: bool
    change: str | None


# As `teacher_cache.codec`, which imports torch; a test compares them.
_LARGE_NUMBERS = 8
_SHORT_PLACES = 2**15


@dataclass(frozen=True)
class Cache:
    """The teacher's states on disk: bytes of one supervised position, and of all of them."""

    position_bytes: int
    total_bytes: float | None


@dataclass(frozen=True)
class Plan:
    """What a recipe takes.

    Attributes:
        flops: of one row of mean length; cached_flops: the same with a full teacher cache.
        row_tokens: that mean; max_length where it is unknown.
        rows: of the whole run, over all epochs; None if unknown.
        cache: None where the run cannot keep its teacher's states, or has no teacher.
        vllm_devices: fewest devices whose memory holds the teacher's weights and a tenth more, as
            vLLM's `tensor_parallel_size` (powers of two); None without a teacher, or if there are
            too few.
    """

    recipe: Recipe
    machine: Machine
    run: Run
    lengths: Lengths
    choices: tuple[Choice, ...]
    cache: Cache | None
    flops: Flops
    cached_flops: Flops
    row_tokens: float
    rows: float | None
    vllm_devices: int | None

    def seconds(self, flops: Flops) -> float | None:
        """Of the whole run on all devices; None without the rate of a device or the rows."""
        machine = self.machine
        if machine.tflops is None or self.rows is None:
            return None
        rate = machine.tflops * 1e12 * machine.mfu * machine.all_devices
        return flops.total * self.rows / rate


def plan_recipe(
    recipe: Recipe,
    machine: Machine,
    *,
    rows: int | None = None,
    row_tokens: float | None = None,
) -> Plan:
    """Computes the plan; loads no weights.

    Args:
        rows, row_tokens: training rows and their mean length, where the data are not here.
    Raises:
        DistillensError: a model's config is not at hand, or the recipe does not fit it.
    """
    student, teacher = recipe_architectures(recipe, Hub())
    lengths = recipe_lengths(recipe, rows=rows, row_tokens=row_tokens)
    run = run_of(recipe, student, teacher, lengths, machine.device)
    tokens = lengths.tokens or float(lengths.longest)
    supervised = lengths.supervised or tokens * lengths.longest_supervised / lengths.longest
    cache = _cache(recipe, run, lengths)
    return Plan(
        recipe=recipe,
        machine=machine,
        run=run,
        lengths=lengths,
        choices=tuple(
            _choice(run, *ways, machine)
            for ways in _ways(run, machine, keeps_states=cache is not None)
        ),
        cache=cache,
        flops=row_flops(run, tokens, supervised),
        cached_flops=row_flops(run, tokens, supervised, teacher_runs=False),
        row_tokens=tokens,
        rows=_rows_of_run(recipe, run, lengths, machine),
        vllm_devices=_vllm_devices(run, machine),
    )


def _ways(run: Run, machine: Machine, *, keeps_states: bool) -> list[tuple[Sharding, Placement]]:
    shardings: list[Sharding] = ["one device"]
    if machine.all_devices > 1:
        shardings += ["ddp", "zero2", "fsdp2"]
    if machine.nodes > 1 and machine.devices > 1:
        shardings.append("hsdp")
    ways: list[tuple[Sharding, Placement]] = []
    for sharding in shardings:
        if run.teacher is None:
            ways.append((sharding, "none"))
            continue
        if sharding in ("fsdp2", "hsdp"):
            ways.append((sharding, "sharded"))
        ways.append((sharding, "replicated"))
        if keeps_states:
            ways.append((sharding, "states only"))
    return ways


def _choice(run: Run, sharding: Sharding, placement: Placement, machine: Machine) -> Choice:
    sharers = machine.devices if sharding == "hsdp" else machine.all_devices
    sharers = 1 if sharding in ("one device", "ddp") else sharers
    found = memory(run, sharding, placement, sharers)
    fits = found.peak <= machine.limit
    change = None
    if not fits:
        change = smallest_change(run, sharding, placement, sharers, machine.limit)
    return Choice(sharding, placement, found, fits, change)


def _cache(recipe: Recipe, run: Run, lengths: Lengths) -> Cache | None:
    # New answers have no stored states, and a stream's rows are not known before: both are refused.
    if run.teacher is None or recipe.train.on_policy or recipe.datasets.train.streaming:
        return None
    settings, model = recipe.teacher_cache, run.teacher.model
    dtype = "bfloat16" if settings is None else settings.dtype
    widths = [model.head_width] + [model.width] * run.teacher_layers
    each = sum(state_bytes(width, dtype) for width in widths)
    if lengths.rows is None or lengths.supervised is None:
        return Cache(each, None)
    return Cache(each, each * lengths.rows * lengths.supervised)


def state_bytes(width: int, dtype: str) -> int:
    """Of one state of one position, as the teacher cache stores it."""
    if dtype == "bfloat16":
        return 2 * width
    return width + 4 + min(_LARGE_NUMBERS, width) * (2 + (2 if width <= _SHORT_PLACES else 4))


def _rows_of_run(recipe: Recipe, run: Run, lengths: Lengths, machine: Machine) -> float | None:
    train = recipe.train
    if train.num_steps is not None:
        batches = train.num_steps * run.batches * machine.all_devices
        if train.train_data_loader.packing and lengths.tokens:
            # What is a row of the batch is a pack here: nearly full, of rows of mean length.
            return batches * run.shape.tokens / lengths.tokens
        return float(batches * run.shape.rows)
    if lengths.rows is None or train.num_epochs is None:
        return None
    return float(lengths.rows * train.num_epochs)


def _vllm_devices(run: Run, machine: Machine) -> int | None:
    if run.teacher is None:
        return None
    number = 1
    while number <= machine.all_devices:
        if run.teacher.bytes * 1.1 / number <= machine.limit:
            return number
        number *= 2
    return None
