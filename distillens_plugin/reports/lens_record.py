"""The numbers of a lens map, as the page, the printed tables and lens.json read them.

A *reading* is how a layer becomes logits: `identity` (the unembedding alone), `final` (through the
model's final norm first) or `tuned` (the main model through its translators, then its final norm).
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens_maps.matrix import LayerMatrix
from distillens_plugin.lens_maps.statistics import LayerStatistics
from distillens_plugin.lens_maps.tokens import TokenTable

FORMAT = "distillens.lens/1"
_UNITS = {
    "entropy": "nats",
    "divergence_to_final": "nats, KL(the model's own distribution || the layer's)",
    "true_rank": "median over positions; 1 is first",
    "top1": "share of positions where the true token is first",
    "true_probability": "mean over positions",
    "logits_std": "standard deviation over the vocabulary",
    "stream_rms": "root mean square of the residual stream",
    "values": "nats per position",
}


@dataclass(frozen=True)
class ModelReadings:
    """What the lens reads from one model.

    Attributes:
        role: teacher, student, model or other.
        name: folder or Hub name.
        statistics: by reading.
        examples: by reading, a table for each shown row.
    """

    role: str
    name: str
    statistics: Mapping[str, LayerStatistics]
    examples: Mapping[str, Sequence[TokenTable]]


@dataclass(frozen=True)
class PairSet:
    """Layer pairs that are marked in a matrix.

    Attributes:
        name: such as `the recipe's`.
        pairs: (row's layer, column's layer).
        mean: of their divergences, in nats.
    """

    name: str
    pairs: Sequence[tuple[int, int]]
    mean: float


@dataclass(frozen=True)
class PairGradient:
    """A lens's gradient at one pair, compared with that of forward KL on the final logits.

    Attributes:
        pair: (student's layer, teacher's layer), numbers or module paths.
        norm: identity or final.
        loss: of the lens, in nats per position.
        radial: share of the squared gradient at the stream along the stream, 0 to 1.
        unembedding, others: (ratio of norms, cosine) over these parameters; None where none train,
            where the lens does not reach them, or where forward KL leaves them no gradient.
    """

    pair: tuple[Layer, Layer]
    norm: str
    loss: float
    radial: float
    unembedding: tuple[float, float] | None
    others: tuple[float, float] | None


@dataclass(frozen=True)
class LensMap:
    """A whole map.

    Attributes:
        data: where the rows come from.
        num_rows, num_positions: that were read.
        models: one, or the row's model and the column's.
        matrices: by reading, [row's layers, column's layers]; empty for one model.
        pairs: by reading, what is marked.
        term: the recipe's lens term; None without one.
        gradients: of that term's pairs.
        without_gradients: why that term has none here, as the end of a sentence.
        settings: what was typed.
        seconds: of reading, without loading.
    """

    data: str
    num_rows: int
    num_positions: int
    models: Sequence[ModelReadings]
    matrices: Mapping[str, LayerMatrix]
    pairs: Mapping[str, Sequence[PairSet]]
    term: str | None
    gradients: Sequence[PairGradient]
    settings: Mapping[str, Any]
    seconds: float
    without_gradients: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: all arrays with their units, the settings and versions."""
        return {
            "format": FORMAT,
            "units": _UNITS,
            **{each.name: plain(getattr(self, each.name)) for each in fields(self)},
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("distillens", "torch", "transformers")},
            },
        }


def plain(value: Any) -> Any:
    """Dataclasses, arrays and tuples as dictionaries and lists; NaN and the infinities are null."""
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
