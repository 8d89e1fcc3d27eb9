"""`distillens teacher-fisher`: the empirical Fisher matrix of a teacher's loss at its layers.

F_k is the mean of g g^T over supervised positions t, with g the gradient of the row's summed
negative log-likelihood towards the residual stream at t after k blocks. So e^T F_k e says how much
the teacher's own prediction notices an error e there, whatever the later blocks make of it. With
labels drawn from the teacher itself it is the Fisher matrix proper, of one draw a position.

Legend: B rows of a batch, N supervised positions, D width, L blocks.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distillens_plugin.data.examples import load_examples
from distillens_plugin.data.spec import DatasetSpec
from distillens_plugin.data.supervision import Supervised
from distillens_plugin.fused import CROSS_ENTROPY, Group, walk
from distillens_plugin.fused.naive import head_logits
from distillens_plugin.fused.plan import default_chunk_rows
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.output import LensOutput, rows_at
from distillens_plugin.lens.probe import frozen, in_eval_mode, plain_model
from distillens_plugin.lens.streams import recorded_streams
from distillens_plugin.lens.teacher_files import teacher_notes
from distillens_plugin.lens_maps.batches import lens_batches
from distillens_plugin.losses.fisher_metric import save_fisher
from distillens_plugin.models.loading import load_teacher
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.prepare.teacher_data import (
    check_output,
    check_positions,
    check_teacher,
    layers_below_last,
)
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError, RunFailure


@dataclass(frozen=True)
class FisherSettings:
    """How the matrices are measured.

    Attributes:
        layers: None is all, 0 (the embeddings) to num_layers - 1.
        labels: `data`, or `sampled`: drawn from the teacher's own distribution.
        seed: of those draws.
    """

    layers: Sequence[int] | None = None
    labels: str = "data"
    batch_size: int = 8
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class LayerFisher:
    """One layer's matrix in figures.

    Attributes:
        trace: mean squared length of the gradient.
        first_share: part of the trace that lies in the first direction.
        directions: the effective number of directions, trace squared over the sum of squared
            eigenvalues.
    """

    layer: int
    trace: float
    first_share: float
    directions: float


def teacher_fisher(
    teacher: TeacherSpec, data: DatasetSpec, output: Path, settings: FisherSettings
) -> list[LayerFisher]:
    """Measures the matrices and writes them.

    Args:
        teacher: a model section of the recipe.
        data: instruction data; all of its rows are read.
    Raises:
        DistillensError: a teacher that cannot be loaded, a layer out of range, or data that are
            unreadable or supervise nothing.
        RunFailure: a gradient is not finite, or the file cannot be written.
    """
    check_output(output)
    check_teacher(teacher)
    examples = load_examples(
        data, load_tokenizer(teacher.tokenizer_name, revision=teacher.revision), where="--data"
    )
    model = load_teacher(teacher, where="TEACHER").to(settings.device)
    check_positions(model, examples)
    num_layers = lens_of(model).num_layers
    layers = layers_below_last(
        settings.layers, num_layers, "is what the head reads (metric: unembedding)"
    )
    batches = lens_batches(examples, len(examples), settings.device, settings.batch_size)
    generator = torch.Generator().manual_seed(settings.seed)
    sampled = generator if settings.labels == "sampled" else None
    matrices, count = fisher_matrices(model, batches, layers, sampled=sampled)
    notes = {
        **teacher_notes(teacher.name_or_path, teacher.adapter),
        "data": examples.describe(),
        "num_positions": count,
        "settings": {**asdict(settings), "layers": layers},
    }
    save_fisher(output, matrices, num_layers=num_layers, notes=notes)
    return [_figures(layer, matrix) for layer, matrix in matrices.items()]


def fisher_matrices(
    model: nn.Module,
    batches: Iterable[tuple[dict[str, Tensor], Supervised]],
    layers: Sequence[int],
    *,
    sampled: torch.Generator | None = None,
) -> tuple[dict[int, Tensor], int]:
    """F_k of some layers.

    Args:
        model: a causal LM; its parameters get no gradient.
        batches: input_ids and attention_mask [B, T] on the model's device, with the positions.
        layers: k is the residual stream after k blocks, 0 the embeddings.
        sampled: draws the labels from the model's own distribution; None takes those of the data.
    Returns:
        [D, D] float64 by layer, and how many positions were read.
    Raises:
        DistillensError: no position is supervised.
        RunFailure: a gradient is not finite.
    """
    lens = lens_of(model)
    sums: dict[int, Tensor] = {}
    count = 0
    with in_eval_mode(model), _embeddings_with_gradient(model), torch.enable_grad():
        for batch, supervised in batches:
            if supervised.positions.numel() == 0:
                continue
            with recorded_streams(model, layers, lens.blocks_path) as seen:
                output = forward(model, batch)
                streams = [seen[layer] for layer in layers]
            loss = _summed_loss(output, supervised, sampled)
            for layer, found in zip(layers, torch.autograd.grad(loss, streams), strict=True):
                gradient_ND = rows_at(found, supervised).double()
                product = gradient_ND.T @ gradient_ND
                sums[layer] = sums[layer] + product if layer in sums else product
            count += supervised.positions.numel()
    if count == 0:
        raise DistillensError(
            "--data: no position of these rows is supervised; pass --loss_on_prompt, or a longer "
            "--max_length"
        )
    for layer, summed in sums.items():
        if not torch.isfinite(summed).all():
            raise RunFailure(f"the gradient at layer {layer} is not finite; use --dtype float32")
    return {layer: summed / count for layer, summed in sums.items()}, count


def _summed_loss(
    output: LensOutput, supervised: Supervised, sampled: torch.Generator | None
) -> Tensor:
    rows = output.final_rows(supervised)
    labels = supervised.labels if sampled is None else _drawn(output, rows, sampled)
    group = Group("nll", rows, CROSS_ENTROPY, labels=labels.to(rows.device), denominator=1.0)
    return walk([group], output.lens.head().detached()).loss


@torch.no_grad()
def _drawn(output: LensOutput, rows_ND: Tensor, generator: torch.Generator) -> Tensor:
    """[N] tokens of the model's own distribution."""
    head = output.lens.head()
    size = default_chunk_rows(head.vocab_size, rows_ND.device, head.weight.dtype)
    drawn = []
    for rows in rows_ND.split(size):
        probs = torch.softmax(head_logits(rows, head), dim=-1)
        # On the CPU, so that a seed gives the same draws on every device.
        drawn.append(torch.multinomial(probs.cpu(), 1, generator=generator).squeeze(-1))
    return torch.cat(drawn)


@contextmanager
def _embeddings_with_gradient(model: nn.Module) -> Iterator[None]:
    """Frozen weights leave no graph; inside, it begins at the embeddings."""
    embedding: nn.Module = plain_model(model).get_input_embeddings()  # type: ignore[operator]

    def ask(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    handle = embedding.register_forward_hook(ask)
    try:
        with frozen(model):
            yield
    finally:
        handle.remove()


def _figures(layer: int, matrix_DD: Tensor) -> LayerFisher:
    values = torch.linalg.eigvalsh(matrix_DD).clamp_min(0)
    trace = values.sum()
    return LayerFisher(
        layer,
        trace.item(),
        (values[-1] / trace).item(),
        (trace.square() / values.square().sum()).item(),
    )
