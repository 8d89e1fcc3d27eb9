"""What a page about runs holds, section by section, in the order in which it is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from distillens_plugin.reports import run_figures as figures
from distillens_plugin.reports import run_words as words
from distillens_plugin.reports.run_choices import layer_maps, layer_sentences, weights_grid
from distillens_plugin.reports.run_evaluation import Evaluation
from distillens_plugin.reports.run_layers import pairs_map
from distillens_plugin.reports.run_records import Run
from distillens_plugin.reports.run_tables import evaluation_grid, results_grid, settings_grid
from eval_harness import printable
from eval_harness.shared.pages.figures import Figure
from eval_harness.shared.pages.heat_map import HeatMap
from eval_harness.shared.pages.tables import Grid

Part = TypeVar("Part")


@dataclass(frozen=True)
class Section:
    """A heading, sentences about its numbers, and what shows them."""

    title: str
    sentences: list[str] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    maps: list[HeatMap] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.sentences or self.grids or self.figures or self.maps)


def sections_of(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Section]:
    """The sections that have something to show."""
    sections = [
        Section("Numbers", grids=_there([results_grid(runs), settings_grid(runs)])),
        Section(
            "Losses", figures=_there([figures.loss_figure(*runs), figures.validation_figure(*runs)])
        ),
        Section("Layer pairs", maps=_pair_maps(runs)),
        Section(
            "What the lens reads",
            sentences=[*_said(runs, words.entropy_sentence), *_measured_on(runs)],
            figures=_there([figures.entropy_figure(*runs), figures.readout_figure(*runs)]),
        ),
        Section(
            "Over- and under-confidence",
            sentences=_said(runs, words.confidence_sentence),
            figures=_there([figures.confidence_figure(*runs)]),
        ),
        Section(
            "Layers and weights",
            sentences=[_of(run, runs, text) for run in runs for text in layer_sentences(run)],
            grids=_weights(runs),
            maps=_layer_maps(runs),
        ),
        Section(
            "Schedule, speed and memory",
            figures=_there([figures.schedule_figure(*runs), figures.rates_figure(*runs)]),
        ),
        Section("Evaluation", grids=_there([evaluation_grid(evaluations)])),
    ]
    return [section for section in sections if not section.is_empty]


def _pair_maps(runs: Sequence[Run]) -> list[HeatMap]:
    """One scale for all runs: colours can be compared between them."""
    plain = [(number, run, pairs_map(run)) for number, run in enumerate(runs)]
    found = [(number, run, each) for number, run, each in plain if each is not None]
    values = [
        value for _, _, each in found for row in each.values for value in row if value is not None
    ]
    ends = {"low": min(values), "high": max(values)} if values else {}
    return [
        replace(each, name=f"pairs_{number}", title=_of(run, runs, each.title), **ends)
        for number, run, each in found
    ]


def _layer_maps(runs: Sequence[Run]) -> list[HeatMap]:
    return [
        replace(each, name=f"run_{number}_{each.name}", title=_of(run, runs, each.title))
        for number, run in enumerate(runs)
        for each in layer_maps(run)
    ]


def _weights(runs: Sequence[Run]) -> list[Grid]:
    """Of several runs those that were chosen: the others are among the settings that differ."""
    shown = [run for run in runs if len(runs) == 1 or run.chosen_weights]
    grids = [(run, weights_grid(run)) for run in shown]
    return [
        replace(grid, title=_of(run, runs, grid.title)) for run, grid in grids if grid is not None
    ]


def _said(runs: Sequence[Run], sentence: Callable[[Run], str | None]) -> list[str]:
    found = [(run, sentence(run)) for run in runs]
    return [_of(run, runs, text) for run, text in found if text is not None]


def _measured_on(runs: Sequence[Run]) -> list[str]:
    texts = {
        run.name: f"Measured on {run.lens[-1].num_positions:,} positions at {len(run.lens)} steps, "
        f"through the {printable(run.lens[-1].norm)} norm."
        for run in runs
        if run.lens
    }
    if len(set(texts.values())) == 1 and len(texts) == len(runs):
        return [next(iter(texts.values()))]
    return [f"{name}: {text}" for name, text in texts.items()]


def _of(run: Run, runs: Sequence[Run], text: str) -> str:
    """Says of which run a text is, where there are several."""
    return f"{run.name}: {text}" if len(runs) > 1 else text


def _there(found: Iterable[Part | None]) -> list[Part]:
    return [each for each in found if each is not None]
