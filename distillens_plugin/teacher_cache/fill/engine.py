"""What runs a teacher for its hidden states: transformers here, vLLM here, or a vLLM server.

Legend: N supervised positions of a row, D width of the residual stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class FillRow:
    """A training row whose states are wanted.

    Attributes:
        row_id: its id in the training data.
        input_ids: all its tokens.
        positions: those whose next token is supervised, sorted; the state at them is kept. All are
            below len(input_ids) - 1.
    """

    row_id: str
    input_ids: list[int]
    positions: list[int]


@dataclass(frozen=True)
class RowStates:
    """What an engine gives for a row.

    Attributes:
        row_id: of the row.
        states: [N, D] at the row's positions by layer: k is the residual stream after k blocks, 0
            the first block's input, L the last block's output, before the final norm.
        log_probs: [N] the engine's own log-probability of the token after each position, in nats;
            None if it gives none.
    """

    row_id: str
    states: dict[int, Tensor]
    log_probs: Tensor | None


class StatesEngine(Protocol):
    """Runs the teacher.

    Attributes:
        identity: what decides the states beside the weights, such as `engine`, `version`, `dtype`,
            `quantisation`; part of the cache's fingerprint.
    """

    identity: dict[str, str]

    def states(self, rows: Sequence[FillRow], layers: Sequence[int]) -> Iterator[RowStates]:
        """The states of each row once, in any order.

        Args:
            rows: each with at least one position.
            layers: sorted and distinct.
        Raises:
            DistillensError: the engine cannot serve what is asked.
            RunFailure: it failed while running.
        """
        ...

    def close(self) -> None:
        """Ends what the engine holds: processes, memory, folders of its own."""
        ...
