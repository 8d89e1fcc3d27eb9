"""A plan as text for people, and as JSON."""

from dataclasses import asdict

from distillens_plugin.costs.plan import Choice, Plan
from distillens_plugin.costs.run import Cost
from distillens_plugin.recipe.schema.layers import unmeasured

_GB = 1e9
# Of a block's parameters; its vectors are a few percent of a small one.
_NEARLY_ALL = 0.9
_COLUMNS = ("weights", "gradients", "optimiser", "activations", "logits", "teacher", "peak")


def plan_lines(plan: Plan) -> list[str]:
    """The lines that `distillens plan` prints."""
    machine, run = plan.machine, plan.run
    count = f"{machine.nodes} x {machine.devices}" if machine.nodes > 1 else f"{machine.devices}"
    lines = [
        f"{plan.recipe.path}: {count} device(s) of {_gb(machine.memory)} GB, of which "
        f"{_gb(machine.reserve)} are kept free ({machine.device})",
        _model("student", run.student, plan)
        + (f", {run.trained / 1e6:,.1f} M trained (LoRA)" if run.adapters is not None else ""),
    ]
    if run.teacher is not None:
        lines.append(_model("teacher", run.teacher, plan))
    lines.append(
        f"batch of a device: {run.shape.rows} x {run.shape.length} tokens, "
        f"{run.shape.supervised:,} supervised, {run.batches} a step; gradient checkpointing "
        f"{'on' if run.checkpointing else 'off'} ({plan.lengths.source})"
    )
    lines += ["", "GB of a device, computed:", *_table(plan.choices), "", *_notes(plan)]
    return lines


def plan_json(plan: Plan) -> dict[str, object]:
    """The same numbers; bytes, FLOPs and seconds."""
    run = plan.run
    models = {"student": run.student, "teacher": run.teacher}
    return {
        "recipe": plan.recipe.path,
        "machine": asdict(plan.machine),
        "models": {
            role: None
            if cost is None
            else {
                "model_type": cost.model.model_type,
                "parameters": cost.model.num_parameters,
                "bytes": cost.bytes,
                "activations": "counted" if cost.model.is_known else "estimated",
                "share_of_blocks_in_flops": cost.model.share_in_flops,
            }
            for role, cost in models.items()
        },
        "trained_parameters": run.trained,
        "batch": {**asdict(run.shape), "batches_per_step": run.batches},
        "lengths": asdict(plan.lengths),
        "choices": [
            {
                "sharding": choice.sharding,
                "teacher": choice.teacher,
                "bytes": {name: round(value) for name, value in asdict(choice.memory).items()},
                "fits": choice.fits,
                "change": choice.change,
            }
            for choice in plan.choices
        ],
        "vllm_tensor_parallel_size": plan.vllm_devices,
        "cache": None if plan.cache is None else asdict(plan.cache),
        "flops_per_row": {**asdict(plan.flops), "total": plan.flops.total},
        "rows": plan.rows,
        "seconds": plan.seconds(plan.flops),
        "seconds_with_cache": None if plan.cache is None else plan.seconds(plan.cached_flops),
    }


def _model(role: str, cost: Cost, plan: Plan) -> str:
    model = cost.model
    spec = plan.recipe.models.teacher_model if role == "teacher" else plan.recipe.models.trained
    name = getattr(spec, "name_or_path", None) or "from its config"
    init = getattr(spec, "init", None)
    if init is not None and init.from_teacher_layers is not None:
        name = f"{len(init.from_teacher_layers)} blocks of a teacher"
    estimated = "" if model.is_known else "; activations estimated, as of a Llama of these widths"
    return (
        f"{role}: {name} ({model.model_type}), {model.num_parameters / 1e6:,.1f} M parameters, "
        f"{'float32' if cost.at.weights == 4 else 'half precision'}"
        f"{', products in half precision' if cost.at.casts else ''}{estimated}"
    )


def _table(choices: tuple[Choice, ...]) -> list[str]:
    head = ["sharding", "teacher", *_COLUMNS, "fits"]
    rows = [head]
    for choice in choices:
        numbers = [_gb(getattr(choice.memory, name)) for name in _COLUMNS]
        if choice.fits:
            fits = "yes"
        else:
            fits = "no; would with " + choice.change if choice.change else "no"
        rows.append([choice.sharding, choice.teacher, *numbers, fits])
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    last = len(head) - 1
    return [
        "  ".join(
            text if place == last else text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _notes(plan: Plan) -> list[str]:
    lines = [
        "peak: the most at one time; activations go as gradients come, so it is less than the sum. "
        "Loading, validation, sampled answers and trained projections are not counted.",
    ]
    if plan.run.adapters is not None and plan.run.adapters.elsewhere:
        names = ", ".join(plan.run.adapters.elsewhere)
        lines.append(f"LoRA on {names}, outside the blocks: not counted either.")
    measured = unmeasured(plan.recipe.layer_terms())
    if measured:
        lines.append(
            f"layers of {', '.join(measured)}: measured before training, which takes both models "
            "whole and some seconds; counted here as so many layers, wherever they are."
        )
    if plan.cache is not None:
        lines += _teacher_notes(plan)
    for role, cost in (("student", plan.run.student), ("teacher", plan.run.teacher)):
        if cost is not None and cost.model.share_in_flops < _NEARLY_ALL:
            lines.append(
                f"time without {1 - cost.model.share_in_flops:.0%} of the {role}'s blocks: its "
                "config does not say how many of these weights (experts) a token meets."
            )
    lines.append(_time(plan))
    return lines


def _teacher_notes(plan: Plan) -> list[str]:
    assert plan.cache is not None  # the caller has checked
    assert plan.run.teacher is not None  # a cache is a teacher's
    total, each = plan.cache.total_bytes, plan.cache.position_bytes
    size = (
        f"{_gb(each * 1e6)} GB a million supervised positions (--rows and --row_tokens tell all)"
        if total is None
        else f"{_gb(total)} GB"
    )
    dtype = "bfloat16" if plan.recipe.teacher_cache is None else plan.recipe.teacher_cache.dtype
    teacher_gb = _gb(plan.run.teacher.bytes)
    vllm = (
        f"{teacher_gb} GB of weights fit tensor_parallel_size={plan.vllm_devices}"
        if plan.vllm_devices is not None
        else f"its {teacher_gb} GB of weights do not fit these devices"
    )
    return [
        f"states only: a teacher cache ({dtype}) of {size}; the trainer holds the teacher's head.",
        f"filled by vLLM before the training: {vllm}; what is left holds vLLM's own cache.",
    ]


def _time(plan: Plan) -> str:
    flops, machine = plan.flops, plan.machine
    each = (
        f"{flops.total / 1e12:,.3g} TFLOPs a row of {plan.row_tokens:,.0f} tokens (student "
        f"{flops.student / flops.total:.0%}, teacher {flops.teacher / flops.total:.0%}, "
        f"vocabulary {flops.walk / flops.total:.0%})"
    )
    if plan.rows is None:
        return f"time: {each}; give --rows for the whole run"
    whole = f"time: {each}, {flops.total * plan.rows:.3g} FLOPs for {plan.rows:,.0f} rows"
    seconds = plan.seconds(flops)
    if seconds is None or machine.tflops is None:
        return f"{whole}; give --tflops, the rate of a device, for hours"
    text = (
        f"{whole}: {_hours(seconds)} at {machine.tflops:g} TFLOP/s a device, {machine.mfu:.0%} of "
        "it reached (--mfu)"
    )
    cached = plan.seconds(plan.cached_flops)
    if plan.cache is not None and cached is not None:
        text += f"; {_hours(cached)} with a full teacher cache"
    return text


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def _gb(num_bytes: float) -> str:
    number = num_bytes / _GB
    return (
        f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"
    )
