"""Whether a server has the weights that it was sent: by the log-probabilities of one prompt.

Legend: T tokens of the prompt.
"""

from collections import deque

import torch
from torch import Tensor

from eval_harness.errors import RunFailure

# A server that rounds to bfloat16 is off by a few hundredths of what separates two models.
_TOLERATED = 0.25
# Weights are old if the server's numbers are this much nearer to those of an earlier step. A server
# that rounds is equally far from both; with fewer tokens it could be nearer by chance.
_NEARER, _FEWEST_TOKENS = 0.25, 8
# Nats below which float32 itself differs between two implementations.
_ROUNDING = 1e-4
_NUM_REMEMBERED = 256


class WeightsCheck:
    """Compares a server's log-probabilities with the model's own.

    Args:
        base_url: of the server, for errors.
        apart: how much the log-probabilities of two models differ, in nats.
    """

    def __init__(self, base_url: str, apart: float) -> None:
        self._base_url = base_url
        self.apart = apart
        self._earlier: deque[Tensor] = deque(maxlen=_NUM_REMEMBERED)

    def remember(self, expected: Tensor) -> None:
        """Keeps the log-probabilities of weights that were sent, to recognise old ones later."""
        self._earlier.append(expected)

    def check(self, found: list[float], expected: Tensor) -> None:
        """Refuses log-probabilities of other weights.

        Args:
            found: [T - 1], of the server.
            expected: [T - 1], of the model.
        Raises:
            RunFailure: they are another model's, or those of weights that were sent before.
        """
        given = torch.tensor(found)
        error = _distance(given, expected)
        if len(found) >= _FEWEST_TOKENS and error >= _ROUNDING:
            self._refuse_earlier(given, error)
        if not error < _TOLERATED * self.apart:
            raise RunFailure(
                f"{self._base_url}: does not take the student's weights: log-probabilities are "
                f"off by {error:.2g} nats, where two models differ by {self.apart:.2g}; is it "
                "serving this student, without quantization? (vLLM's CPU build keeps the old "
                "unembedding where it is tied to the embedding)"
            )

    def _refuse_earlier(self, given: Tensor, error: float) -> None:
        for earlier in self._earlier:
            if _distance(given, earlier) < _NEARER * error:
                raise RunFailure(
                    f"{self._base_url}: still has weights that it was sent before: "
                    f"log-probabilities are off by {error:.2g} nats from the student's, and by "
                    f"{_distance(given, earlier):.2g} from an earlier step's; was it restarted?"
                )


def _distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().mean().item()
