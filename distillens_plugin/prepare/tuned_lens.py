"""`distillens tune-lens`: trains the translators of a teacher's layers.

Each translator starts as the identity and is trained on KL(p_final || p_layer), the teacher's own
final distribution against what the lens reads at that layer. The teacher is frozen; in each step
all layers share one walk over the vocabulary.

Source: Belrose et al. 2023, arXiv 2303.08112, section 3.

Legend: B rows of a batch, T tokens, N supervised positions, D width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import InstructionDataset, load_examples
from distillens_plugin.data.spec import DatasetSpec
from distillens_plugin.data.supervision import supervised_from_targets
from distillens_plugin.divergences import ForwardKL
from distillens_plugin.fused import Group, walk
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.output import LensOutput, rows_at
from distillens_plugin.lens.readout import Lens
from distillens_plugin.lens.streams import recorded_streams
from distillens_plugin.lens.teacher_files import teacher_notes
from distillens_plugin.lens.translators import save_translators
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

_HELD_OUT = 0.1
_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class TuneSettings:
    """How translators are trained.

    Attributes:
        layers: None is all, 0 (the embeddings) to num_layers - 1.
        lr: of Adam, falling linearly to 0.
    """

    num_steps: int = 250
    batch_size: int = 8
    lr: float = 1e-3
    seed: int = 0
    layers: Sequence[int] | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class LayerResult:
    """Mean KL(final || layer) in nats on the held-out rows."""

    layer: int
    kl_logit_lens: float
    kl_tuned_lens: float


class _Translator(nn.Module):
    """h + h A^T + b, with A = 0 and b = 0 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, rows_ND: Tensor) -> Tensor:
        return rows_ND + rows_ND @ self.weight.T + self.bias


def tune_lens(
    teacher: TeacherSpec, data: DatasetSpec, output: Path, settings: TuneSettings
) -> list[LayerResult]:
    """Trains translators and writes them.

    Args:
        teacher: a model section of the recipe.
        data: instruction data; a tenth of its rows (the last ones) is held out.
    Raises:
        DistillensError: a teacher that cannot be loaded, a layer out of range, or data that are
            unreadable or too few.
        RunFailure: the loss is not finite, or the file cannot be written.
    """
    check_output(output)
    check_teacher(teacher)
    tokenizer = load_tokenizer(teacher.tokenizer_name, revision=teacher.revision)
    examples = load_examples(data, tokenizer, where="--data")
    num_held_out = max(1, int(_HELD_OUT * len(examples)))
    if num_held_out == len(examples):
        raise DistillensError(
            f"--data {data.path}: found one row, expected at least two, to train and to hold out"
        )
    model = load_teacher(teacher, where="TEACHER").to(settings.device)
    check_positions(model, examples)
    lens = lens_of(model)
    layers = layers_below_last(settings.layers, lens.num_layers, "needs no translator")
    made = {layer: _Translator(lens.anatomy.width) for layer in layers}
    translators = nn.ModuleDict({str(layer): made[layer] for layer in layers})
    translators.to(settings.device)
    split = len(examples) - num_held_out
    held_out = list(range(split, len(examples)))
    before = _measure(model, lens, translators, examples, held_out, settings)
    _train(model, lens, translators, examples, split, settings)
    after = _measure(model, lens, translators, examples, held_out, settings)
    results = [LayerResult(layer, before[layer], after[layer]) for layer in layers]
    maps = {layer: (each.weight, each.bias) for layer, each in made.items()}
    notes = {
        **teacher_notes(teacher.name_or_path, teacher.adapter),
        "data": examples.describe(),
        "settings": {**asdict(settings), "layers": layers},
        "held_out_kl": [asdict(result) for result in results],
    }
    save_translators(output, maps, num_layers=lens.num_layers, notes=notes)
    return results


def _train(
    model: nn.Module,
    lens: Lens,
    translators: nn.ModuleDict,
    examples: InstructionDataset,
    num_rows: int,
    settings: TuneSettings,
) -> None:
    optimizer = torch.optim.Adam(translators.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1.0, end_factor=0.0, total_iters=settings.num_steps
    )
    generator = torch.Generator().manual_seed(settings.seed)
    order = _endless(num_rows, settings.batch_size, generator)
    for step in range(settings.num_steps):
        loss, _ = _loss(model, lens, translators, examples, next(order))
        if not math.isfinite(loss.item()):
            raise RunFailure(f"step {step + 1}: the loss is not finite; lower --lr")
        optimizer.zero_grad()
        loss.backward()
        # One translator's gradient must not shrink the others': each is clipped by itself.
        for translator in translators.values():
            nn.utils.clip_grad_norm_(translator.parameters(), _MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()


def _endless(num_rows: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    while True:
        order = torch.randperm(num_rows, generator=generator).tolist()
        for start in range(0, num_rows, batch_size):
            yield order[start : start + batch_size]


@torch.no_grad()
def _measure(
    model: nn.Module,
    lens: Lens,
    translators: nn.ModuleDict,
    examples: InstructionDataset,
    rows: list[int],
    settings: TuneSettings,
) -> dict[int, float]:
    """Mean KL(final || layer) over the supervised positions of some rows."""
    sums = dict.fromkeys(map(int, translators), 0.0)
    count = 0
    for start in range(0, len(rows), settings.batch_size):
        batch = rows[start : start + settings.batch_size]
        _, values = _loss(model, lens, translators, examples, batch)
        num_positions = int(values.pop("num_positions"))
        count += num_positions
        for name, value in values.items():
            sums[int(name)] += value.item() * num_positions
    return {layer: total / max(1, count) for layer, total in sums.items()}


def _loss(
    model: nn.Module,
    lens: Lens,
    translators: nn.ModuleDict,
    examples: InstructionDataset,
    indices: list[int],
) -> tuple[Tensor, dict[str, Any]]:
    """The sum of all layers' KL, and each by its layer's number."""
    batch, targets = collate([examples[index] for index in indices])
    device = lens.head().weight.device
    batch = {name: value.to(device) for name, value in batch.items()}
    output, streams = _run(model, lens, batch, [int(layer) for layer in translators])
    supervised = supervised_from_targets(targets).to(device)
    final = output.final_rows(supervised)
    groups = []
    for name, translator in translators.items():
        rows = rows_at(streams[int(name)], supervised).float()
        groups.append(
            Group(
                name=name,
                student_rows=lens.apply_readout(translator(rows), norm="final"),
                teacher_rows=final,
                divergence=ForwardKL(),
            )
        )
    result = walk(groups, lens.head(), lens.head())
    return result.loss, {**result.values, "num_positions": supervised.positions.numel()}


def _run(
    model: nn.Module, lens: Lens, batch: dict[str, Tensor], layers: list[int]
) -> tuple[LensOutput, dict[int, Tensor]]:
    """The frozen teacher's final states and the residual streams of some layers."""
    with torch.no_grad(), recorded_streams(model, layers, lens.blocks_path) as seen:
        output = forward(model, batch)
        streams = {layer: seen[layer] for layer in layers}
    return output, streams
