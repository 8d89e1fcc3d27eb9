"""What a run chose by itself, and why: layer pairs by divergence, weights by gradient norm."""

from collections.abc import Mapping

from distillens_plugin.reports import run_words as words
from distillens_plugin.reports.lens_training import reads_by_teacher
from distillens_plugin.reports.run_records import Run
from distillens_plugin.reports.run_tables import decimal, text
from eval_harness.shared.pages.heat_map import HeatMap
from eval_harness.shared.pages.tables import Grid


def layer_sentences(run: Run) -> list[str]:
    """For each term with measured layers: the pairs, and what equal depth would have given."""
    found = []
    for name, term in (run.pairs.terms if run.pairs is not None else {}).items():
        sentence = (
            f"{text(name)}: layers {term.measured.shown} were chosen for the least mean "
            f"{text(term.divergence)}, {term.mean:.3g} nats, measured before training on "
            f"{term.num_positions:,} positions in {term.seconds:.1f} s."
        )
        depth = term.by_depth
        if depth is not None and depth.shown == term.measured.shown:
            sentence += " Equal relative depth gives the same pairs."
        elif depth is not None:
            mean = "" if depth.mean is None else f", with {depth.mean:.3g} nats"
            sentence += f" Equal relative depth would have given {depth.shown}{mean}."
        found.append(sentence)
    return found


def layer_maps(run: Run) -> list[HeatMap]:
    """For each term whose layers were measured the matrix, with the chosen pairs marked."""
    maps = []
    for number, (name, term) in enumerate(
        (run.pairs.terms if run.pairs is not None else {}).items()
    ):
        pairs = zip(term.measured.student, term.measured.teacher, strict=False)
        marked = [
            (term.student_layers.index(a), term.teacher_layers.index(b))
            for a, b in pairs
            if a in term.student_layers and b in term.teacher_layers
        ]
        by_own = reads_by_teacher(run, name)  # before training there were no trained maps
        maps.append(
            HeatMap(
                name=f"layers_{number}",
                title=f"How far layers were apart before training ({text(name)})",
                caption="Each cell compares a layer of the student with a layer of the teacher; "
                "outlined are the pairs that the run trains."
                f"{' Each model was read by its own head.' if by_own else ''}",
                rows=[str(layer) for layer in term.student_layers],
                columns=[str(layer) for layer in term.teacher_layers],
                values=term.values,
                row_label="student layer",
                column_label="teacher layer",
                unit="nats",
                decimals=3,
                marked=tuple(marked),
            )
        )
    return maps


def weights_grid(run: Run) -> Grid | None:
    """The weight of each loss term; None where the recipe names no terms."""
    terms = words.sub_terms(run)
    chosen = run.chosen_weights
    rows = []
    for name, spec in terms.items():
        given = spec.get("weight", spec.get("factor")) if isinstance(spec, Mapping) else None
        reason = "from the recipe"
        weight: object = given
        if name in chosen:
            weight = chosen[name]
            reason = "measured: balanced by gradient norm in the warm-up (weight: auto)"
        shown = decimal(weight, 4) if _is_number(weight) else text(str(weight))
        rows.append([text(name), shown, reason])
    if not rows:
        return None
    return Grid(
        title="Weights of the loss terms",
        header=["term", "weight", "where it comes from"],
        rows=rows,
        caption="The loss is the sum of the terms, each times its weight.",
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
