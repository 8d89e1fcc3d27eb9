"""A lens map made by hand, with any texts as its models' names and tokens."""

from collections.abc import Sequence

import numpy as np

from distillens_plugin.lens_maps.matrix import LayerMatrix
from distillens_plugin.lens_maps.statistics import LayerStatistics
from distillens_plugin.lens_maps.tokens import TokenTable
from distillens_plugin.reports.lens_record import LensMap, ModelReadings, PairGradient, PairSet


def statistics(num_layers: int, norm: str) -> LayerStatistics:
    """Entropy falls by a half a layer, ranks improve."""
    falling = 8 * 0.6 ** np.arange(num_layers + 1)
    return LayerStatistics(
        layers=list(range(num_layers + 1)),
        entropy=falling,
        divergence_to_final=falling - falling[-1],
        true_rank=np.linspace(500, 1, num_layers + 1),
        top1=np.linspace(0, 0.5, num_layers + 1),
        true_probability=np.linspace(0, 0.4, num_layers + 1),
        logits_std=np.ones(num_layers + 1),
        stream_rms=np.ones(num_layers + 1),
        num_positions=40,
        norm=norm,
    )


def tokens(num_layers: int, texts: Sequence[str], norm: str) -> TokenTable:
    """Every layer reads the texts in turn, with falling probability."""
    count, layers = len(texts), num_layers + 1
    top = [[[texts[(at + k) % count] for k in range(5)] for at in range(count)]] * layers
    shape = (layers, count)
    return TokenTable(
        layers=list(range(layers)),
        positions=list(range(count)),
        tokens=list(texts),
        next_tokens=[*texts[1:], texts[0]],
        top_tokens=top,
        top_probabilities=np.tile(np.array([0.5, 0.2, 0.1, 0.05, 0.01]), (*shape, 1)),
        true_rank=np.full(shape, 2),
        true_probability=np.full(shape, 0.2),
        entropy=np.full(shape, 1.5),
        norm=norm,
    )


def lens_map_sample(texts: Sequence[str] = (" a", "b", "\n")) -> LensMap:
    """A student of 2 layers and a teacher of 3, read with and without the final norm."""
    ways = ("identity", "final")
    models = [
        ModelReadings(
            role,
            texts[0],
            {way: statistics(layers, way) for way in ways},
            {way: [tokens(layers, texts, way)] for way in ways},
        )
        for role, layers in (("student", 2), ("teacher", 3))
    ]
    values = np.array([[0.0, 0.3, 0.4, 0.5], [0.4, 0.2, 0.1, 0.3], [0.6, 0.5, 0.2, 0.1]])
    return LensMap(
        data=texts[-1],
        num_rows=2,
        num_positions=40,
        models=models,
        matrices={w: LayerMatrix([0, 1, 2], [0, 1, 2, 3], values, 40, 0.5, w, "jsd") for w in ways},
        pairs={
            way: [PairSet("the recipe's", [(1, 1)], 0.2), PairSet("least divergent", [(1, 2)], 0.1)]
            for way in ways
        },
        term="lens",
        gradients=[PairGradient((1, 1), way, 0.2, 0.1, None, (0.5, -0.2)) for way in ways],
        settings={"target": texts[0]},
        seconds=1.5,
    )
