"""The report's plots, as PNG bytes. Needs matplotlib (the `report` extra)."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.statistics import Floats

# Okabe and Ito's colours are distinguishable with every kind of colour blindness.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X"


def require_matplotlib() -> None:
    """Raises DistillensError with the install line if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise DistillensError(
            "report draws its plots with matplotlib, which is not installed; run pip install -e "
            "'.[report]' in a clone"
        ) from error


def plot_scores(
    title: str,
    names: Sequence[str],
    scores: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
) -> bytes:
    """Each system's score with its interval, one below the other.

    Args:
        title: above the plot.
        names: of K systems.
        scores: K, x 100.
        intervals: K pairs (low, high); None for a score without one.
    Returns:
        A PNG.
    """
    figure, axes = _new_figure(height=1.1 + 0.45 * len(names))
    for row, (score, interval) in enumerate(zip(scores, intervals, strict=True)):
        style: dict[str, Any] = {"color": _COLOURS[row % len(_COLOURS)], "capsize": 4}
        reach = [[score - interval[0]], [interval[1] - score]] if interval else None
        axes.errorbar([score], [row], xerr=reach, fmt=_MARKERS[row % len(_MARKERS)], **style)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("score, with 95 % interval over rows")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    return _png(figure)


def plot_length(
    title: str, names: Sequence[str], lengths: Sequence[Floats], scores: Sequence[Floats]
) -> bytes:
    """Each row's score against the length of its answer, one colour for each system.

    Args:
        title: above the plot.
        names: of K systems.
        lengths: K arrays [N], words of the row's answers, mean over seeds.
        scores: K arrays [N], x 100.
    Returns:
        A PNG.
    """
    figure, axes = _new_figure(height=3.6)
    # Points of many rows hide each other; paler ones still show where they crowd.
    alpha = 0.7 if max(len(length) for length in lengths) <= 300 else 0.2
    for row, (name, length, score) in enumerate(zip(names, lengths, scores, strict=True)):
        axes.scatter(
            length,
            score,
            s=12,
            alpha=alpha,
            color=_COLOURS[row % len(_COLOURS)],
            marker=_MARKERS[row % len(_MARKERS)],
            linewidths=0,
            label=_plain(name),
        )
    # Lengths spread over orders of magnitude and may be 0, which a plain log axis cannot show.
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=-1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("words of the answer (linear up to 10, logarithmic above)")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    legend = axes.legend(fontsize=8, markerscale=1.5)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return _png(figure)


def _new_figure(*, height: float) -> tuple[Any, Any]:
    # Figure itself, not pyplot: no global state, no display, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), dpi=130, layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables still show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Without the software's version the same numbers give the same bytes.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Keeps matplotlib from reading dollar signs in a name as mathematics."""
    return text.replace("$", r"\$")
