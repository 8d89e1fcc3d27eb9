"""The page of a lens map: lens.html, its figures as files, and lens.json with all numbers."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillens_plugin.lens_maps.matrix import LayerMatrix
from distillens_plugin.reports.lens_figures import (
    plot_layer_matrix,
    plot_layer_statistics,
    plot_tokens,
)
from distillens_plugin.reports.lens_folder import FIGURES, NUMBERS, PAGE, clear
from distillens_plugin.reports.lens_record import LensMap, ModelReadings, PairSet
from distillens_plugin.reports.lens_tables import gradient_grid, layer_grids
from distillens_plugin.reports.lens_tokens import token_grid
from distillens_plugin.reports.lens_words import (
    READINGS,
    matrix_sentence,
    model_sentences,
    noun,
    without_gradients,
)
from eval_harness import printable
from eval_harness.shared.files.atomic import check_writable, encode_json, write_bytes, write_text
from eval_harness.shared.pages.cells import CellGrid
from eval_harness.shared.pages.figures import Figure, finish
from eval_harness.shared.pages.heat_map import HeatMap
from eval_harness.shared.pages.render import render
from eval_harness.shared.pages.tables import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# Beside the numbers of the pairs of least divergence.
STAR = "★"


@dataclass(frozen=True)
class ModelSection:
    """What the page says of one model."""

    title: str
    name: str
    sentences: list[str]
    figure: Figure
    grids: list[Grid]


@dataclass(frozen=True)
class MatrixSection:
    """What the page says of two models, read in one way."""

    title: str
    sentence: str
    grid: CellGrid


@dataclass(frozen=True)
class ExampleSection:
    """The tokens of one row, as each model reads it: `grids` shown at once, `others` on demand."""

    title: str
    grids: list[CellGrid]
    others: list[CellGrid]


def write_lens_page(found: LensMap, folder: Path) -> Path:
    """Writes lens.html, lens.json, and figures/*.png and *.svg.

    Args:
        folder: free, or of an older map (`lens_folder.check_free`).
    Raises:
        RunFailure: a file cannot be written.
    """
    check_writable(folder)
    models = [_model_section(model) for model in found.models]
    pictures = [section.figure for section in models]
    pictures += [_matrix_figure(found, way) for way in found.matrices]
    pictures += _token_figures(found)
    numbers = encode_json(found.to_json(), where=str(folder / NUMBERS))
    html = render(
        "distillens_plugin",
        "reports/lens_page.html.j2",
        title=printable(_title(found)),
        about=_about(found),
        models=models,
        matrices=[_matrix_section(found, way) for way in found.matrices],
        gradients=gradient_grid(found),
        without_gradients=without_gradients(found),
        examples=_examples(found),
    )
    # Only now: an older map stays whole if any part of the new one cannot be made.
    clear(folder)
    (folder / FIGURES).mkdir(exist_ok=True)
    for picture in pictures:
        write_bytes(folder / FIGURES / f"{picture.name}.png", picture.png)
        write_text(folder / FIGURES / f"{picture.name}.svg", picture.svg)
    write_text(folder / NUMBERS, numbers)
    write_text(folder / PAGE, html)
    return folder / PAGE


def _title(found: LensMap) -> str:
    names = [Path(model.name).name for model in reversed(found.models)]
    return f"Lens map of {' and '.join(names)}"


def _about(found: LensMap) -> str:
    models = " and ".join(f"the {noun(each.role)} {each.name}" for each in reversed(found.models))
    return printable(
        f"What the logit lens reads from each layer of {models}: {found.num_positions:,} "
        f"supervised positions of the first {found.num_rows} rows of {found.data}, read in "
        f"{found.seconds:.1f} s. Layer k is the residual stream after k blocks, 0 the embeddings."
    )


def _model_section(model: ModelReadings) -> ModelSection:
    first = next(iter(model.statistics.values()))
    figure = _finished(
        plot_layer_statistics(model.statistics),
        name=f"layers_{model.role}",
        title=f"The layers of the {noun(model.role)}",
        caption="Read each line from left to right: how open the next token still is, how far the "
        "layer is from the model's own distribution, and how early the token that does come next "
        "is found.",
        alt=f"Entropy, KL from the final layer, rank and share of the true token over the layers 0 "
        f"to {first.layers[-1]} of {printable(model.name)}",
    )
    title = f"The {noun(model.role)}, layer by layer"
    sentences = model_sentences(model)
    return ModelSection(title, printable(model.name), sentences, figure, layer_grids(model))


def _finished(drawing: "Drawing", **texts: str) -> Figure:
    with warnings.catch_warnings():
        # Tokens of all scripts: what matplotlib's font lacks is a box in the PNG only.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return finish(drawing, **texts)


def _matrix_map(found: LensMap, way: str) -> HeatMap:
    matrix = found.matrices[way]
    rows, columns = (noun(model.role) for model in found.models)
    return HeatMap(
        name=f"matrix_{way}",
        title=f"Every layer of the {rows} against every layer of the {columns}, {READINGS[way]}",
        caption="Read a row: which layer of the one model reads most like this layer of the other; "
        "darker is closer, 0 is equal and 0.693 nats (ln 2) are the most."
        + _legend(found.pairs[way]),
        rows=[str(layer) for layer in reversed(matrix.student_layers)],
        columns=[str(layer) for layer in matrix.teacher_layers],
        values=np.asarray(matrix.values)[::-1],
        row_label=f"{rows} layer",
        column_label=f"{columns} layer",
        unit="nats",
        decimals=3,
        marked=[_place(matrix, pair) for pair in _ringed(found.pairs[way])],
    )


def _legend(sets: Sequence[PairSet]) -> str:
    signs = {each.name: _sign(each) for each in sets}
    told = ", ".join(f"{sign}: {name} pairs" for name, sign in signs.items())
    return f" {told[0].upper()}{told[1:]}." if told else ""


def _sign(pairs: PairSet) -> str:
    return "a star" if pairs.name == "least divergent" else "a ring"


def _ringed(sets: Sequence[PairSet]) -> list[tuple[int, int]]:
    return [pair for each in sets if _sign(each) == "a ring" for pair in each.pairs]


def _place(matrix: LayerMatrix, pair: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a pair in a grid whose last row is layer 0."""
    row = len(matrix.student_layers) - 1 - list(matrix.student_layers).index(pair[0])
    return row, list(matrix.teacher_layers).index(pair[1])


def _matrix_section(found: LensMap, way: str) -> MatrixSection:
    grid, matrix = _matrix_map(found, way).grid(), found.matrices[way]
    for pair in [p for each in found.pairs[way] if _sign(each) == "a star" for p in each.pairs]:
        row, column = _place(matrix, pair)
        cell = grid.cells[row][column]
        says = f"{cell.says} (least divergent)"
        grid.cells[row][column] = replace(cell, text=f"{cell.text}{STAR}", says=says)
    title = f"{READINGS[way][0].upper()}{READINGS[way][1:]}"
    return MatrixSection(title, matrix_sentence(found, way), grid)


def _matrix_figure(found: LensMap, way: str) -> Figure:
    shown = _matrix_map(found, way)
    sets = {each.name: each.pairs for each in found.pairs[way]}
    drawing = plot_layer_matrix(
        found.matrices[way], sets, labels=(shown.row_label, shown.column_label)
    )
    alt = f"{shown.title}: a heat map of divergences"
    return _finished(drawing, name=shown.name, title=shown.title, caption=shown.caption, alt=alt)


def _best_reading(model: ModelReadings) -> str:
    """The reading whose last layer is the model's own distribution, if it was asked for."""
    return "tuned" if "tuned" in model.examples else list(model.examples)[-1]


def _examples(found: LensMap) -> list[ExampleSection]:
    count = max(len(tables) for model in found.models for tables in model.examples.values())
    sections = []
    for number in range(count):
        grids: list[CellGrid] = []
        others: list[CellGrid] = []
        for model in found.models:
            best = _best_reading(model)
            for way, tables in model.examples.items():
                name = f"tokens_{model.role}_{way}_{number + 1}"
                title = f"What the {noun(model.role)} takes to come next, {READINGS[way]}"
                (grids if way == best else others).append(
                    token_grid(tables[number], name=name, title=title)
                )
        sections.append(ExampleSection(f"Example {number + 1}", grids, others))
    return sections


def _token_figures(found: LensMap) -> list[Figure]:
    """Of each example and model one picture, in its best reading."""
    figures = []
    for model in found.models:
        way = _best_reading(model)
        for number, table in enumerate(model.examples[way], start=1):
            title = (
                f"Example {number}: what the {noun(model.role)} takes to come next, {READINGS[way]}"
            )
            figures.append(
                _finished(
                    plot_tokens(table),
                    name=f"tokens_{model.role}_{way}_{number}",
                    title=title,
                    caption="Read a column from the bottom to the top: what each layer takes to "
                    "come next; lighter is surer, a frame: it is right.",
                    alt=f"{title}: the most probable token of each layer at each position",
                )
            )
    return figures
