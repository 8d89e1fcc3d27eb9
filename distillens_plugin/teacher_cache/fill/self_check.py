"""Whether an engine's states are those of the teacher: its own probabilities must follow from them.

The last layer's states go through the teacher's final norm and unembedding, which were loaded by
themselves. What comes out is compared with the log-probabilities that the engine itself gives.

Legend: N positions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distillens_plugin.lens.readout import Lens
from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.token_log_probs import token_log_probs
from distillens_plugin.teacher_cache.fingerprint import is_quantised
from eval_harness.errors import RunFailure

# Largest mean |difference| in nats that an engine's own arithmetic explains. Right states differ by
# 1e-5 in float32; in bfloat16 the engine rounds its logits. Of a wrong layer the mean is in nats.
TOLERANCES = {"float32": 0.02, "float16": 0.1, "bfloat16": 0.3}
_QUANTISED = 0.3
# One row is a smaller sample than a chunk.
_ROW_FACTOR = 10.0
# A prime above the positions of most rows: starts then go through all of them.
_STRIDE = 7919
# So many positions of a chunk are compared: each costs a product with the whole vocabulary.
NUM_COMPARED = 512


def tolerance_of(identity: Mapping[str, str]) -> float:
    """The largest mean difference, in nats, for an engine."""
    if is_quantised(identity):
        return _QUANTISED
    return TOLERANCES.get(identity.get("dtype", ""), _QUANTISED)


class SelfCheck:
    """Compares chunk after chunk.

    Args:
        lens: the teacher's, loaded by itself.
        identity: of the engine.

    Attributes:
        num_compared, sum_of_differences: over all chunks.
    """

    def __init__(self, lens: Lens, identity: Mapping[str, str]) -> None:
        self._lens = lens
        self._engine = identity.get("engine", "the engine")
        self._tolerance = tolerance_of(identity)
        self.num_compared = 0
        self.sum_of_differences = 0.0

    def check(
        self,
        rows: Sequence[FillRow],
        results: Mapping[str, RowStates],
        finals: Mapping[str, Tensor],
    ) -> None:
        """Compares some positions of a chunk, spread evenly.

        Args:
            results: the engine's, by row id.
            finals: [N, D] what the unembedding reads, by row id.
        Raises:
            RunFailure: the engine's states are not the teacher's.
        """
        num_positions = sum(len(row.positions) for row in rows)
        every = max(1, num_positions // NUM_COMPARED)
        means: list[tuple[float, int]] = []
        for number, row in enumerate(rows):
            given = results[row.row_id].log_probs
            if given is None:
                continue
            # At least one of each row, and not always the first.
            start = number * _STRIDE % min(every, len(row.positions))
            chosen = torch.arange(start, len(row.positions), every)
            tokens = torch.tensor([row.input_ids[row.positions[i] + 1] for i in chosen.tolist()])
            expected = token_log_probs(self._lens, finals[row.row_id][chosen], tokens)
            mean = (given.float().cpu()[chosen] - expected).abs().mean().item()
            if not mean <= self._tolerance * _ROW_FACTOR:
                self._refuse(f"row {row.row_id!r}", mean)
            means.append((mean, len(chosen)))
        total = sum(mean * count for mean, count in means)
        compared = sum(count for _, count in means)
        if compared and not total / compared <= self._tolerance:
            self._refuse(f"{len(means)} rows", total / compared)
        self.sum_of_differences += total
        self.num_compared += compared

    def describe(self) -> str:
        """For the closing line."""
        if not self.num_compared:
            return f"{self._engine} gives no probabilities to compare with"
        mean = self.sum_of_differences / self.num_compared
        return f"{mean:.1g} nats from {self._engine}'s own log-probabilities on average"

    def _refuse(self, what: str, mean: float) -> None:
        raise RunFailure(
            f"{self._engine}: its states of {what} are not the teacher's: through the teacher's "
            f"final norm and head they are off from the log-probabilities that it gives itself by "
            f"{mean:.3g} nats on average, allowed {self._tolerance:g}; nothing of this chunk was "
            "stored. Does it serve this model, and number layers after blocks? --model hf always "
            "does"
        )
