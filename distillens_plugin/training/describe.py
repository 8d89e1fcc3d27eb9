"""The description of a run before its first step: models, layer pairs, length."""

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.losses.term import terms_of
from distillens_plugin.models.loading import num_parameters
from distillens_plugin.training.balance_place import places
from distillens_plugin.training.balance_steps import measured_steps


def describe_models(experiment: Experiment) -> str:
    """Sizes of student and teacher, the layer pairs and the length of the run.

    Raises:
        DistillensError: a weight is `auto`, and no block's gradients can be compared.
    """
    recipe, accelerator = experiment.recipe, experiment.accelerator
    student = experiment.student
    lines = [
        f"student: {num_parameters(student):,} parameters, "
        f"{num_parameters(student, trainable=True):,} trained, "
        f"{experiment.student_anatomy.num_layers} layers x {experiment.student_anatomy.width}"
    ]
    if experiment.readout is not None:
        lines.append(experiment.readout.describe())
    elif experiment.teacher is not None and experiment.teacher_anatomy is not None:
        lines.append(
            f"teacher: {num_parameters(experiment.teacher):,} parameters, "
            f"{experiment.teacher_anatomy.num_layers} layers x {experiment.teacher_anatomy.width}"
        )
    lines += [*_describe_pairs(experiment), *_describe_balance(experiment)]
    lines += _describe_unread(experiment)
    if recipe.train.on_policy is not None:
        settings = recipe.train.on_policy
        lines.append(
            f"on-policy: the student answers {settings.share:.0%} of the rows itself "
            f"({settings.schedule})"
        )
    batch = recipe.train.train_data_loader.kwargs.batch_size or 1
    lines.append(
        f"run: {experiment.num_steps} steps, {experiment.steps_per_epoch} an epoch; {batch} rows x "
        f"{accelerator.num_processes} processes x {recipe.train.optimizer.grad_accum_step} batches "
        f"a step; {accelerator.device}, precision {recipe.mixed_precision}"
    )
    return "\n".join(lines)


def _describe_pairs(experiment: Experiment) -> list[str]:
    """A line for each loss term that compares layers."""
    if experiment.teacher_anatomy is None:
        return []
    depths = (experiment.student_anatomy.num_layers, experiment.teacher_anatomy.num_layers)
    lines = []
    balanced = experiment.recipe.train.criterion.kwargs.balanced()
    for name, weighted in terms_of(experiment.box.criterion).items():
        shown = " ".join(f"{a}-{b}" for a, b in weighted.term.pairs(*depths))
        if shown:
            weight = "auto" if name in balanced else weighted.factor
            lines.append(f"{name}: layer pairs {shown} (student-teacher), weight {weight}")
    return lines


def _describe_unread(experiment: Experiment) -> list[str]:
    """A line where blocks above the last layer that is read get weight decay and nothing else."""
    box, anatomy = experiment.box, experiment.student_anatomy
    depth = anatomy.num_layers
    terms = [weighted.term for weighted in terms_of(box.criterion).values()]
    read_all = any(term.needs.final_states or term.needs.activations for term in terms)
    read_all |= experiment.recipe.train.criterion.kwargs.model_term is not None
    decay = any(group.get("weight_decay") for group in box.optimizer.param_groups)
    if experiment.teacher_anatomy is None or not terms or read_all or not decay:
        return []
    pairs = [term.pairs(depth, experiment.teacher_anatomy.num_layers) for term in terms]
    layers = [a for own in pairs for a, _ in own]
    # What a term without layers reads (a router loss), or a module's place, is not known here.
    if not all(pairs) or not all(isinstance(layer, int) for layer in layers):
        return []
    last = max(layer for layer in layers if isinstance(layer, int))
    above = tuple(f"{anatomy.blocks}.{index}." for index in range(last, depth))
    if not any(
        parameter.requires_grad and any(block in name for block in above)
        for name, parameter in experiment.student.named_parameters()
    ):
        return []
    return [
        f"note: no loss term reads the student above layer {last}, so blocks {last + 1} to {depth} "
        "get weight decay and no gradient; freeze them (train.student.frozen_modules) or set "
        "weight_decay: 0"
    ]


def _describe_balance(experiment: Experiment) -> list[str]:
    """A line for each weight that is measured."""
    criterion = experiment.recipe.train.criterion.kwargs
    steps = measured_steps(experiment)
    when = f"up to step {steps[-1]}; 1 until then"
    return [
        f"{name}: its weight is balanced against {criterion.reference()} by their gradients at "
        f"layer {place.layer}, {when}"
        for name, place in places(experiment).items()
    ]
