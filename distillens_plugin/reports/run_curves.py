"""Numbers over the steps of a run: losses, validation, the schedule, speed and memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillens_plugin.reports.run_records import VALIDATION_LOSS, Run
from distillens_plugin.reports.run_words import LOSS_UNIT, best_validation
from eval_harness.shared.pages.figures import Figure, axes, finish
from eval_harness.shared.pages.palette import SERIES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

STEPS = "optimiser steps"
# More points than a picture of this width can show only make the page large.
_MOST_POINTS = 400
_MOST_PANELS = 8
_OTHER_NUMBERS = ("step", "epoch", VALIDATION_LOSS)


@dataclass(frozen=True)
class _Curve:
    """What one panel shows of each run: a number of its training records, of its validations."""

    title: str
    unit: str
    training: str | None = None
    validation: str | None = None
    scale: float = 1.0
    marks_best: bool = False

    def is_in(self, run: Run) -> bool:
        return bool(self._points(run, validation=False) or self._points(run, validation=True))

    def draw(self, panel: "Axes", runs: Sequence[Run]) -> None:
        for number, run in enumerate(runs):
            colour = SERIES[number % len(SERIES)]
            if points := self._points(run, validation=False):
                panel.plot(*_thinned(points), color=colour, label=run.name)
            if points := self._points(run, validation=True):
                x, y = zip(*points, strict=True)
                dashes = "--" if self.training else "-"
                panel.plot(x, y, dashes, color=colour, marker="o", markersize=3.5, label=run.name)
            best = best_validation(run) if self.marks_best else None
            if best is not None and self.validation is not None and self.validation in best:
                at = (best["step"], best[self.validation] * self.scale)
                panel.plot(*at, "o", markersize=9, markerfacecolor="none", color=colour)
        panel.set_title(self.title)
        panel.set_ylabel(self.unit)
        panel.set_xlabel(STEPS)

    def _points(self, run: Run, *, validation: bool) -> list[tuple[int, float]]:
        name = self.validation if validation else self.training
        if name is None:
            return []
        steps, values = run.series(name, validation=validation)
        return [(step, value * self.scale) for step, value in zip(steps, values, strict=True)]


def loss_figure(*runs: Run) -> Figure | None:
    """The loss and each of its terms over optimiser steps: on training rows, and on validation."""
    terms = list({term: None for run in runs for term in run.terms})[: _MOST_PANELS - 1]
    curves = [_Curve("loss: the weighted sum", "loss", "loss")]
    curves += [_Curve(f"{term}, unweighted", "value", term, f"val/{term}") for term in terms]
    validated = any(run.series(f"val/{term}", validation=True)[0] for run in runs for term in terms)
    return _figure(
        runs,
        curves,
        name="losses",
        title="Loss terms",
        caption="Solid: means over the training steps since the last record"
        + ("; dashed with dots: the same term on all validation rows" if validated else "")
        + ". Lower is better.",
    )


def validation_figure(*runs: Run) -> Figure | None:
    """Validation loss (nats per response token) and other scores over steps; a ring at the best."""
    curves = [_Curve("validation loss", LOSS_UNIT, None, VALIDATION_LOSS, marks_best=True)]
    names = {name: None for run in runs for record in run.validation for name in record}
    others = [name for name in names if name not in _OTHER_NUMBERS and "/" not in name]
    curves += [_Curve(name, "score", None, name, marks_best=True) for name in others]
    return _figure(
        runs,
        curves[:_MOST_PANELS],
        name="validation",
        title="Validation",
        caption="Each dot is a validation, step 0 is before training, and the ring marks the model "
        "that was kept as the best.",
    )


def schedule_figure(*runs: Run) -> Figure | None:
    """Learning rate and gradient norm over steps."""
    curves = [
        _Curve("learning rate", "learning rate", "lr"),
        _Curve("gradient norm, before clipping", "norm", "grad_norm"),
    ]
    return _figure(
        runs,
        curves,
        name="schedule",
        title="Learning rate and gradient norm",
        caption="A gradient norm that keeps growing while the learning rate is at its height is a "
        "sign that the rate is too high.",
    )


def rates_figure(*runs: Run) -> Figure | None:
    """Tokens a second and peak memory over steps."""
    peak = max((v for run in runs for v in run.series("peak_memory_bytes")[1]), default=0.0)
    unit, size = ("GiB", 2**30) if peak >= 2**30 else ("MiB", 2**20)
    curves = [
        _Curve("speed", "tokens a second", "tokens_per_s"),
        _Curve("peak memory", unit, "peak_memory_bytes", scale=1 / size),
    ]
    return _figure(
        runs,
        curves,
        name="rates",
        title="Speed and memory",
        caption="Tokens a second, without padding, are means since the start of training, "
        "validation left out; memory is the most that the process has held so far.",
    )


def _figure(
    runs: Sequence[Run], curves: Sequence[_Curve], *, name: str, title: str, caption: str
) -> Figure | None:
    shown = [curve for curve in curves if any(curve.is_in(run) for run in runs)]
    if not shown:
        return None
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, panels = axes(rows, columns, size=(3.6 * columns, 2.5 * rows))
    flat = [panel for line in panels for panel in line]
    for panel, curve in zip(flat, shown, strict=False):
        curve.draw(panel, runs)
    for panel in flat[len(shown) :]:
        panel.set_axis_off()
    if len(runs) > 1:
        legend(figure, flat)
    alt = f"{title} of {', '.join(run.name for run in runs)}: {', '.join(c.title for c in shown)}"
    return finish(figure, name=name, title=title, caption=caption, alt=alt)


def legend(figure: "Drawing", panels: Sequence["Axes"]) -> None:
    """One legend above all panels, with each label once."""
    found: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside upper left", ncols=min(3, len(found))
    )


def _thinned(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Means over as many neighbours as it takes to show few points."""
    width = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return (
        [sum(step for step, _ in group) / len(group) for group in groups],
        [sum(value for _, value in group) / len(group) for group in groups],
    )
