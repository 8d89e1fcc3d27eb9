"""A lens map in words: the tables that commands print, and sentences that its numbers support."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from distillens_plugin.lens_maps.statistics import LayerStatistics
from distillens_plugin.reports.lens_record import LensMap, ModelReadings, PairSet

READINGS = {
    "identity": "without the final norm",
    "final": "through the final norm",
    "tuned": "through the tuned lens",
}
_SHORT = {"identity": "identity norm", "final": "final norm", "tuned": "tuned lens"}


def printed(found: LensMap) -> list[str]:
    """The lines of the whole report, as the commands print it."""
    lines = [f"{found.num_rows} rows, {found.num_positions:,} supervised positions"]
    # Main model first: of a recipe, the teacher.
    for model in reversed(found.models):
        lines += _layer_lines(model)
    for way, sets in found.pairs.items():
        lines += ["", f"JSD between layers {READINGS[way]}, nats"]
        lines += [f"  {pair_sentence(each, found, way)}" for each in sets]
        if not sets:
            why = "no layer lies between the embeddings and the last, or a number is not finite"
            lines.append(f"  no pair: {why}")
    return lines + _gradient_lines(found)


def _layer_lines(model: ModelReadings) -> list[str]:
    columns = f"{'logits':>8} {'entropy':>8} {'KL':>8} {'rank':>7} {'top1':>6}"
    width = len(columns)
    lines = [
        "",
        f"{model.role} (its last layer through the final norm is its own distribution)",
        " " * 15 + "".join(f" | {_SHORT[way]:<{width}}" for way in model.statistics).rstrip(),
        f"{'layer':>6} {'rms':>8}" + f" | {columns}" * len(model.statistics),
    ]
    first = next(iter(model.statistics.values()))
    for index, layer in enumerate(first.layers):
        line = f"{layer:>6} {first.stream_rms[index]:8.3f}"
        for each in model.statistics.values():
            line += (
                f" | {each.logits_std[index]:8.2f} {each.entropy[index]:8.2f} "
                f"{each.divergence_to_final[index]:8.3f} {each.true_rank[index]:7.0f} "
                f"{each.top1[index]:6.3f}"
            )
        lines.append(line)
    return lines


def _gradient_lines(found: LensMap) -> list[str]:
    if (without := without_gradients(found)) is not None:
        return ["", without]
    if not found.gradients:
        return []
    lines = [
        "",
        f"{found.term}: gradients compared with those of forward KL on the final logits",
        " " * 34 + " | unembedding     | others",
        f"{'pair':>8} {'norm':>9} {'loss':>7} {'radial':>7}" + f" | {'ratio':>7} {'cosine':>7}" * 2,
    ]
    for each in found.gradients:
        line = f"{shown_pair(each.pair):>8} {each.norm:>9} {each.loss:7.4f} {each.radial:7.2f}"
        for part in (each.unembedding, each.others):
            numbers = f"{part[0]:7.3f} {part[1]:7.2f}" if part else f"{'no gradient':>15}"
            line += f" | {numbers}"
        lines.append(line)
    return lines


def without_gradients(found: LensMap) -> str | None:
    """Why the map has no gradients of its lens term; None where it has, or has no such term."""
    if found.without_gradients is None:
        return None
    return f"Not shown are the gradients of {found.term}: {found.without_gradients}."


def noun(role: str) -> str:
    """What a model is called in a sentence."""
    return "other model" if role == "other" else role


def shown_pair(pair: Sequence[object]) -> str:
    """`2-4`: the row's layer and the column's."""
    return f"{pair[0]}-{pair[1]}"


def pair_sentence(pairs: PairSet, found: LensMap, way: str) -> str:
    """Which pairs, and their mean divergence."""
    matrix = found.matrices[way]
    values = [float(matrix.values[a, b]) for a, b in pairs.pairs]
    named = ", ".join(
        f"{shown_pair(pair)} ({value:.3f})" for pair, value in zip(pairs.pairs, values, strict=True)
    )
    return f"{pairs.name} pairs: {named}; mean {pairs.mean:.3f} nats"


def model_sentences(model: ModelReadings) -> list[str]:
    """What each reading of a model found; only what its numbers say."""
    return [
        f"{READINGS[way][0].upper()}{READINGS[way][1:]}: {'; '.join(_findings(statistics))}."
        for way, statistics in model.statistics.items()
    ]


def _findings(statistics: LayerStatistics) -> Iterable[str]:
    entropy, layers = np.asarray(statistics.entropy), list(statistics.layers)
    if not np.isfinite(entropy).all():
        yield "the entropy of some layer is not a finite number"
        return
    top = int(entropy.argmax())
    half = next((i for i in range(top, len(layers)) if entropy[i] < entropy[top] / 2), None)
    highest = f"the entropy is highest at layer {layers[top]} ({entropy[top]:.2f} nats)"
    if top == len(layers) - 1:
        yield f"{highest}, the last"
    elif half is None:
        yield f"{highest} and stays above half of that in all later layers"
    else:
        yield f"{highest} and first falls below half of that at layer {layers[half]}"
    ranks = np.asarray(statistics.true_rank)
    yield (
        f"the true next token has median rank {_rank(ranks[0])} at layer {layers[0]} and "
        f"{_rank(ranks[-1])} at layer {layers[-1]}"
    )
    shares = np.asarray(statistics.top1)
    best = int(shares.argmax())
    if shares[best] == 0:
        yield "it is nowhere the most probable one"
    else:
        share = f"{100 * shares[best]:.0f} % of positions"
        yield f"it is the most probable one most often at layer {layers[best]}, at {share}"


def _rank(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "unknown"


def matrix_sentence(found: LensMap, way: str) -> str:
    """What a matrix says of the marked pairs."""
    matrix = found.matrices[way]
    values = np.asarray(matrix.values)
    if not np.isfinite(values).all():
        return "Some of the divergences are not finite numbers."
    row, column = np.unravel_index(int(values.argmin()), values.shape)
    pair = (matrix.student_layers[int(row)], matrix.teacher_layers[int(column)])
    text = f"Of all pairs, {shown_pair(pair)} differs least ({values.min():.3f} nats)."
    sets = found.pairs[way]
    for number, each in enumerate(sets):
        if number and set(each.pairs) == set(sets[0].pairs):
            text += f" These are also the {each.name} ones, of as many that ascend in both models."
            continue
        sentence = pair_sentence(each, found, way)
        text += f" {sentence[0].upper()}{sentence[1:]}."
    return text
