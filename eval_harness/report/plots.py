"""The report's figures: scores with their intervals, and scores against the length of answers."""

import warnings
from collections.abc import Sequence
from typing import Any

from eval_harness.shared.pages.figures import Figure, axes, finish
from eval_harness.shared.pages.palette import SERIES
from eval_harness.shared.statistics import Floats

_MARKERS = "osD^vP*X"
# More points are drawn as one picture: each by itself would make the page large.
_MOST_POINTS = 1000
# A longer name would leave no room for what it names; tables show it whole.
_MOST_LETTERS = 40


def plot_scores(
    stem: str,
    title: str,
    names: Sequence[str],
    scores: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
) -> Figure:
    """Each system's score with its interval, one below the other.

    Args:
        stem: of the figure's files.
        title: what is scored.
        names: of K systems.
        scores: K, x 100.
        intervals: K pairs (low, high); None for a score without one.
    """
    figure, panels = axes(1, 1, size=(6.6, 0.9 + 0.42 * len(names)))
    panel = panels[0][0]
    for row, (score, interval) in enumerate(zip(scores, intervals, strict=True)):
        style: dict[str, Any] = {"color": SERIES[row % len(SERIES)], "capsize": 4}
        reach = [[score - interval[0]], [interval[1] - score]] if interval else None
        panel.errorbar([score], [row], xerr=reach, fmt=_MARKERS[row % len(_MARKERS)], **style)
    panel.set_yticks(range(len(names)), [_short(name) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel("score, with 95 % interval over rows")
    panel.grid(False, axis="y")
    told = ", ".join(f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True))
    return _finish(
        figure,
        name=f"{stem}_scores",
        title=f"{title}, scores with intervals",
        caption="Each mark is the mean over rows, its bar the 95 % interval over rows; whether two "
        "systems differ is told by their paired difference, not by bars that overlap.",
        alt=f"{title}: {told}",
    )


def plot_length(
    stem: str,
    title: str,
    names: Sequence[str],
    lengths: Sequence[Floats],
    scores: Sequence[Floats],
) -> Figure:
    """Each row's score against the length of its answer, one colour for each system.

    Args:
        stem: of the figure's files.
        title: what is scored.
        names: of K systems.
        lengths: K arrays [N], words of the row's answers, mean over seeds.
        scores: K arrays [N], x 100.
    """
    figure, panels = axes(1, 1, size=(6.6, 3.5))
    panel = panels[0][0]
    # Points of many rows hide each other; paler ones still show where they crowd.
    alpha = 0.7 if max(len(length) for length in lengths) <= 300 else 0.25
    for row, (name, length, score) in enumerate(zip(names, lengths, scores, strict=True)):
        panel.scatter(
            length,
            score,
            s=12,
            alpha=alpha,
            color=SERIES[row % len(SERIES)],
            marker=_MARKERS[row % len(_MARKERS)],
            linewidths=0,
            label=_short(name),
            rasterized=sum(map(len, lengths)) > _MOST_POINTS,
        )
    # Lengths spread over orders of magnitude and may be 0, which a plain log axis cannot show.
    panel.set_xscale("symlog", linthresh=10)
    panel.set_xlim(left=-1)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("words of the answer (linear up to 10, logarithmic above)")
    panel.set_ylabel("score")
    legend = panel.legend(fontsize=8, markerscale=1.5)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return _finish(
        figure,
        name=f"{stem}_length",
        title=f"{title} of each row against the length of its answer",
        caption="Each point is a row. A cloud that rises to the right scores long answers higher; "
        "one at the left edge is a system that says too little.",
        alt=f"{title} against the length of answers, {len(scores[0])} rows of {len(names)} systems",
    )


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def _finish(figure: Any, **texts: str) -> Figure:
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables still show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return finish(figure, **texts)
