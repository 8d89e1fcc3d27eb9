"""Whether an engine has the weights that it was told to load: by the log-probabilities of a prompt.

vLLM replaces weights in place and reports no failure where a layer keeps its old ones, so its
numbers are compared with those of transformers on the same folder.

Legend: T tokens of the prompt.
"""

import random
from collections.abc import Sequence

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.config_files import read_config
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.identity import ModelFiles

_NUM_TOKENS = 64
# Nats by which float32 itself differs between two implementations.
_ROUNDING = 1e-4
# An engine that rounds to bfloat16 is off by about as much for another model of the same shape.
_MORE_THAN_BEFORE = 3.0
# Old weights are told from new ones only if they are this many times further away.
_APART = 4.0


class WeightsProbe:
    """Compares an engine's log-probabilities with those of a model folder.

    Args:
        facts: of the model that the engine was started with.
        dtype: of the engine.
        max_length: of a prompt and a token, in tokens; at least 2.
    """

    def __init__(self, facts: ModelFiles, dtype: str, max_length: int) -> None:
        fields = read_config(facts.folder)
        num_ids = fields.get("vocab_size", fields.get("text_config", {}).get("vocab_size"))
        generator = random.Random(0)
        self.token_ids = tuple(
            generator.randrange(num_ids) for _ in range(min(_NUM_TOKENS, max_length - 1))
        )
        self._dtype = dtype
        self._expected = expected_log_probabilities(facts, self.token_ids, dtype)
        self._noise = 0.0

    def calibrate(self, found: Sequence[float]) -> None:
        """Learns how far a fresh engine is from transformers.

        Args:
            found: [T - 1], of the engine with the model that it was started with.
        """
        self._noise = _distance(found, self._expected)

    def check(self, facts: ModelFiles, found: Sequence[Sequence[float]]) -> None:
        """Refuses log-probabilities of other weights than the folder's.

        Args:
            facts: of the model that the engine was told to load.
            found: of each engine, [T - 1].
        Raises:
            RunFailure: they are another model's, or cannot be told from the last one's.
        """
        expected = expected_log_probabilities(facts, self.token_ids, self._dtype)
        apart = _distance(expected, self._expected)
        error = max(_distance(of_engine, expected) for of_engine in found)
        close = error <= _MORE_THAN_BEFORE * self._noise + _ROUNDING
        # Of equal weights, either are the right ones.
        told_apart = apart == 0 or _APART * error < apart
        if not (close and told_apart):
            raise RunFailure(
                f"vLLM's engine has not taken the weights of {facts.name}: its log-probabilities "
                f"are off by {error:.2g} nats, where those of a fresh engine are off by "
                f"{self._noise:.2g} and those of the two models differ by {apart:.2g}"
            )
        self._expected = expected


def expected_log_probabilities(
    facts: ModelFiles, token_ids: Sequence[int], dtype: str
) -> list[float]:
    """Of each token after the first, given those before it, by transformers on the CPU, in nats.

    Raises:
        RunFailure: transformers does not load the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with foreign_errors(f"{facts.name}: transformers does not load the model"):
            model = AutoModelForCausalLM.from_pretrained(
                facts.folder, dtype=getattr(torch, dtype), weights_only=True
            ).eval()
    except DistillensError as error:
        raise RunFailure(str(error)) from error
    ids = torch.tensor([token_ids])
    with torch.inference_mode():
        scores = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    found: list[float] = scores.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return found


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
