"""`distillens lens-report`: what the lens reads from a pair, with the final norm and without.

First, for each layer of both models: the root mean square of the residual stream, and three numbers
about the next-token distribution that each lens reads from it: the logits' standard deviation over
the vocabulary, the entropy, and KL(the model's own final distribution || the lens's), in nats. A
lens with hardly any entropy and a large KL is sure of the wrong tokens; little can be learned from
it.

Then, for each pair, how the gradient of the lens compares with that of forward KL on the final
logits, in the same student: the ratio of their norms and the cosine between them, over the
unembedding and over all other trained parameters (a negative cosine undoes what the final logits
teach), and `radial`, the share of the squared gradient at the student's stream that only changes
the stream's length.

The teacher is read through the logit lens, even where the recipe has teacher_translators.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.streaming import first_examples
from distillens_plugin.data.supervision import Supervised, supervised_from_targets
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.lens.layers import Layer
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.models.loading import load_pretrained, load_student, load_teacher
from distillens_plugin.prepare.lens_readings import NORMS, Pulls, Streams, read_layer
from distillens_plugin.recipe.schema.models import TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError

_BATCH_ROWS = 8


def lens_report(recipe: Recipe, *, student: str | None, num_rows: int) -> list[str]:
    """The report's lines.

    Args:
        student: folder or Hub name of a trained student; None: the recipe's as it starts.
        num_rows: of the validation data, or of the training data if the recipe has no validation.
    Raises:
        DistillensError: no teacher, no lens in the recipe, or data or models that cannot be read.
    """
    _check(recipe, num_rows)
    device = make_accelerator(recipe, tracker_folder=None).device
    tokenizer, train, validation = load_data(recipe)
    teacher_model, student_model = _models(recipe, student, tokenizer)
    name, settings = recipe.lens_terms()[0]
    lens = DistillLensLoss(**settings.model_dump(exclude_none=True))
    pairs = lens.pairs(_depth(student_model), _depth(teacher_model))
    rows = validation if validation is not None else first_examples(train)
    batches = _batches(rows, num_rows, device)
    with torch.no_grad():
        theirs = Streams(teacher_model.to(device), batches, [b for _, b in pairs])
    ours = Streams(student_model.to(device).eval(), batches, [a for a, _ in pairs])
    num_rows = sum(len(batch["input_ids"]) for batch, _ in batches)
    lines = [f"{num_rows} rows, {len(ours.final)} supervised positions"]
    lines += _layer_lines("teacher", theirs) + _layer_lines("student", ours)
    return lines + _pair_lines(name, Pulls(ours, theirs, lens.divergence, lens.temperature), pairs)


def _check(recipe: Recipe, num_rows: int) -> None:
    if num_rows < 1:
        raise DistillensError(f"--rows {num_rows}: expected at least 1")
    for what, found in (
        ("teacher", recipe.models.teacher_model),
        ("DistillLensLoss", recipe.lens_terms()),
    ):
        if not found:
            raise DistillensError(
                f"{recipe.path}: found no {what}; expected a recipe that distils with the lens"
            )


def _models(
    recipe: Recipe, student: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[nn.Module, nn.Module]:
    teacher_spec = recipe.models.teacher_model
    assert teacher_spec is not None  # checked
    torch.manual_seed(recipe.seed)
    teacher = load_teacher(teacher_spec)
    if student is not None:
        return teacher, load_pretrained(TeacherSpec(name_or_path=student), where="--student")
    where = f"models.{recipe.trained_role}"
    return teacher, load_student(recipe.models.trained, tokenizer, teacher=teacher, where=where)


def _depth(model: nn.Module) -> int:
    return find_anatomy(model).num_layers


def _batches(
    data: InstructionDataset, num_rows: int, device: torch.device
) -> list[tuple[dict[str, Tensor], Supervised]]:
    count = min(num_rows, len(data))
    batches = []
    for start in range(0, count, _BATCH_ROWS):
        rows = [data[index] for index in range(start, min(start + _BATCH_ROWS, count))]
        batch, targets = collate(rows)
        on_device = {name: value.to(device) for name, value in batch.items()}
        batches.append((on_device, supervised_from_targets(targets).to(device)))
    return batches


def _layer_lines(role: str, streams: Streams) -> list[str]:
    columns = f"{'logits':>8} {'entropy':>8} {'KL':>8}"
    lines = [
        "",
        f"{role} (its last layer through the final norm is its own distribution)",
        " " * 15 + "".join(f" | {norm + ' norm':<26}" for norm in NORMS).rstrip(),
        f"{'layer':>6} {'rms':>8}" + f" | {columns}" * len(NORMS),
    ]
    for layer, rows in streams.layers.items():
        line = f"{layer:>6} {rows.float().square().mean().sqrt():8.3f}"
        for norm in NORMS:
            read = read_layer(streams, layer, norm)
            line += f" | {read.logits_std:8.2f} {read.entropy:8.2f} {read.kl_from_final:8.3f}"
        lines.append(line)
    return lines


def _pair_lines(name: str, pulls: Pulls, pairs: list[tuple[Layer, Layer]]) -> list[str]:
    lines = [
        "",
        f"{name}: gradients compared with those of forward KL on the final logits",
        " " * 34 + " | unembedding     | others",
        f"{'pair':>8} {'norm':>9} {'loss':>7} {'radial':>7}" + f" | {'ratio':>7} {'cosine':>7}" * 2,
    ]
    for pair in pairs:
        for norm in NORMS:
            pull = pulls.of(pair, norm)
            line = f"{f'{pair[0]}-{pair[1]}':>8} {norm:>9} {pull.loss:7.4f} {pull.radial:7.2f}"
            for found in (pull.unembedding, pull.others):
                numbers = f"{found[0]:7.3f} {found[1]:7.2f}" if found else f"{'frozen':>15}"
                line += f" | {numbers}"
            lines.append(line)
    return lines
