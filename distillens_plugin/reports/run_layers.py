"""What the lens reads layer by layer, before and after: entropy, confidence, layer pairs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distillens_plugin.reports.lens_training import compared_by, is_in_nats, own_heads
from distillens_plugin.reports.run_curves import STEPS, legend
from distillens_plugin.reports.run_files import ConfidenceReadings, LayerReadings, LensLine
from distillens_plugin.reports.run_records import Run
from eval_harness.shared.pages.figures import Figure, axes, finish
from eval_harness.shared.pages.heat_map import HeatMap
from eval_harness.shared.pages.palette import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COLUMNS = 24


def pairs_map(run: Run, *, low: float | None = None, high: float | None = None) -> HeatMap | None:
    """Each layer pair's divergence over steps: a row for each pair, a column for each record.

    Neighbouring records are averaged where there are more than 24.

    Args:
        low, high: ends of the scale; default: those of the values.
    """
    pairs = run.layer_pairs
    if not pairs:
        return None
    names = [f"{term}/{mine}-{theirs}" for term, mine, theirs in pairs]
    records = [record for record in run.training if any(name in record for name in names)]
    width = -(-len(records) // _MOST_COLUMNS)
    groups = [records[start : start + width] for start in range(0, len(records), width)]
    several = len({term for term, _, _ in pairs}) > 1
    return HeatMap(
        name="pairs",
        title="Divergence of each layer pair",
        caption="Read a row from left to right: how far the student's layer is from the teacher's "
        f"as training goes on; darker is closer.{compared_by(run, (term for term, _, _ in pairs))}",
        rows=[f"{term} {a}-{b}" if several else f"{a}-{b}" for term, a, b in pairs],
        columns=[f"{int(group[-1]['step'])}" for group in groups],
        values=[[_mean_of(group, name) for group in groups] for name in names],
        row_label="pair (student-teacher)",
        column_label=STEPS,
        unit=_unit(run, {term for term, _, _ in pairs}),
        decimals=3,
        low=low,
        high=high,
    )


def pairs_figure(run: Run) -> Figure | None:
    """`pairs_map` as a picture."""
    found = pairs_map(run)
    return None if found is None else found.figure()


def entropy_figure(*runs: Run) -> Figure | None:
    """Entropy of each layer's next-token distribution: teacher, student before, student after."""
    shown = [run for run in runs if run.lens]
    if not shown:
        return None
    figure, panels = axes(1, 1, size=(6.4, 3.4))
    _by_layer(panels[0][0], runs, "entropy")
    panels[0][0].set_ylabel("entropy (nats)")
    legend(figure, panels[0])
    return finish(
        figure,
        name="entropy",
        title="Entropy by layer",
        caption="Each mark is the mean entropy of a layer's next-token distribution: high where "
        "many tokens are still open. A student whose line lies below the teacher's has made up its "
        f"mind too early.{own_heads(shown)}",
        alt=_alt("Entropy", shown, "entropy", "nats"),
    )


def readout_figure(*runs: Run) -> Figure | None:
    """By layer: divergence from the final layer, and the share of positions it has right."""
    shown = [run for run in runs if run.lens]
    names = {
        "kl_from_final": "KL from the final layer (nats)",
        "top1": "true next token is first (share)",
    }
    reads = {
        "kl_from_final": "how far a layer's distribution still is from the final one",
        "top1": "the share of positions where its first token is the true next one",
    }
    found = [n for n in names if any(getattr(run.lens[0].student, n) for run in shown)]
    if not found:
        return None
    figure, panels = axes(1, len(found), size=(3.6 * len(found), 3.2))
    for panel, name in zip(panels[0], found, strict=True):
        _by_layer(panel, runs, name)
        panel.set_ylabel(names[name])
        if name == "top1":
            panel.yaxis.set_major_formatter(_percent)
    legend(figure, panels[0])
    return finish(
        figure,
        name="readout",
        title="How early each model knows the answer",
        caption=f"From left to right: {'; '.join(reads[name] for name in found)}. Where a line "
        f"bends, the model decides.{own_heads(shown)}",
        alt=_alt("Divergence from the final layer", shown, found[0], ""),
    )


def confidence_figure(*runs: Run) -> Figure | None:
    """By layer pair: where the student is surer, or less sure, than the teacher, before, after."""
    series = _confidences(runs)
    if not series:
        return None
    pairs = list({(a, b): None for _, _, found in series for a, b in found.pairs})
    height = 1.3 + (0.16 + 0.17 * len(series)) * len(pairs)
    figure, panels = axes(1, 2, size=(7.2, height))
    for panel, kind in zip(panels[0], ("share", "by"), strict=True):
        _bars(panel, series, pairs, kind)
    panels[0][0].set_xlabel("share of positions")
    panels[0][1].set_xlabel("by how much there (nats)")
    panels[0][0].set_ylabel("pair (student-teacher)")
    legend(figure, panels[0])
    last = series[-1][2]
    return finish(
        figure,
        name="confidence",
        title="Over- and under-confidence by layer",
        caption="Bars to the right: positions where the student's entropy lies more than 0.01 nats "
        "below the teacher's (surer); to the left: above it (less sure). Without bars both are "
        f"equally sure.{own_heads([run for run in runs if run.lens])}",
        alt="Share of positions where the student is surer than the teacher: "
        + ", ".join(
            f"pair {a}-{b} {share:.0%}"
            for (a, b), share in zip(last.pairs, last.surer_share, strict=True)
        ),
    )


def _by_layer(panel: "Axes", runs: Sequence[Run], name: str) -> None:
    """One number over layers. Models of different depths share the axis as parts of the whole.

    A run keeps its colour where others have no readings.
    """
    depths = {max(model.layers) for run in runs for model in _models(run)}
    whole = len(depths) == 1

    def draw(model: LayerReadings, label: str, style: str, colour: str, width: float) -> None:
        deepest = max(model.layers) or 1
        x = [layer if whole else layer / deepest for layer in model.layers]
        y = getattr(model, name)
        if y:
            panel.plot(
                x, y, style, label=label, color=colour, marker="o", markersize=3, linewidth=width
            )

    teachers = []
    for run in runs:
        teacher = run.lens[0].teacher if run.lens else None
        if teacher is not None and teacher not in teachers:
            teachers.append(teacher)
            label = "teacher" if len(teachers) == 1 else f"teacher of {run.name}"
            draw(teacher, label, "-", SERIES[(len(runs) + len(teachers) - 1) % len(SERIES)], 2.2)
    for number, run in enumerate(runs):
        if not run.lens:
            continue
        colour, whose = SERIES[number % len(SERIES)], run.name if len(runs) > 1 else "student"
        first, last = run.lens[0], run.lens[-1]
        if len(run.lens) > 1:
            draw(first.student, f"{whose}, step {first.step:,}", ":", colour, 1.3)
        draw(last.student, f"{whose}, step {last.step:,}", "-", colour, 1.6)
    panel.set_xlabel("layer (0: embeddings)" if whole else "depth (layer / number of layers)")
    if whole and max(depths) <= 12:
        panel.set_xticks(range(max(depths) + 1))


def _models(run: Run) -> list[LayerReadings]:
    if not run.lens:
        return []
    teacher = run.lens[0].teacher
    return [run.lens[0].student, *([teacher] if teacher is not None else [])]


def _confidences(runs: Sequence[Run]) -> list[tuple[str, str, ConfidenceReadings]]:
    """Label, colour and numbers of each group of bars: one run before and after, or several now."""
    series = []
    for number, run in enumerate(runs):
        lines = [line for line in run.lens if line.confidence is not None and line.confidence.pairs]
        first_too = len(runs) == 1 and len(lines) > 1
        for line in [lines[0], lines[-1]] if first_too else lines[-1:]:
            is_before = first_too and line is lines[0]
            colour = SERIES[-1] if is_before else SERIES[number % len(SERIES)]
            if line.confidence is not None:
                series.append((_label(run, line, runs), colour, line.confidence))
    return series


def _label(run: Run, line: LensLine, runs: Sequence[Run]) -> str:
    return f"{run.name}, step {line.step:,}" if len(runs) > 1 else f"step {line.step:,}"


def _bars(
    panel: "Axes",
    series: Sequence[tuple[str, str, ConfidenceReadings]],
    pairs: Sequence[tuple[int, int]],
    kind: str,
) -> None:
    thick = 0.8 / len(series)
    for number, (label, colour, found) in enumerate(series):
        rows = [pairs.index((a, b)) - 0.4 + (number + 0.5) * thick for a, b in found.pairs]
        right = getattr(found, f"surer_{kind}")
        left = [-value for value in getattr(found, f"less_sure_{kind}")]
        panel.barh(rows, right, height=thick * 0.9, color=colour, label=label)
        panel.barh(rows, left, height=thick * 0.9, color=colour)
    panel.axvline(0, color="0.5", linewidth=0.8)
    panel.set_yticks(range(len(pairs)), [f"{a}-{b}" for a, b in pairs])
    panel.invert_yaxis()
    panel.xaxis.set_major_formatter(_percent if kind == "share" else _size)
    panel.set_title("less sure  ←   → surer")


def _percent(value: float, _place: float) -> str:
    return f"{abs(value) * 100:.3g} %"


def _size(value: float, _place: float) -> str:
    """Both directions are counted upwards."""
    return f"{abs(value):.3g}"


def _unit(run: Run, terms: set[str]) -> str:
    """Nats for a term that compares distributions; terms on states have no unit."""
    return "nats" if all(is_in_nats(run, term) for term in terms) else ""


def _mean_of(group: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [record[name] for record in group if name in record]
    return sum(values) / len(values) if values else None


def _alt(what: str, runs: Sequence[Run], name: str, unit: str) -> str:
    """The numbers of the last reading in words, for those who cannot see the picture."""
    parts = []
    for run in runs:
        values = getattr(run.lens[-1].student, name)
        numbers = ", ".join(f"{value:.2f}" for value in values)
        parts.append(f"{run.name} at step {run.lens[-1].step}: {numbers} {unit}".rstrip())
    return f"{what} by layer, from layer {runs[0].lens[-1].student.layers[0]}: {'; '.join(parts)}"
