"""The no-repeat-n-gram rule: which tokens would complete an n-gram a second time.

One rule, three forms: `NgramHistory` follows one answer token by token; `ban_repeats` does a batch
of token matrices on any device; `first_repeat` checks a finished answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NgramHistory:
    """The n-grams of one prompt and its answer so far.

    Args:
        size: n, at least 1.
        tokens: of the prompt, without padding.
    Source: `no_repeat_ngram_size` of transformers, which MiniLLM leaves on at 6.
    """

    def __init__(self, size: int, tokens: Sequence[int]) -> None:
        if size < 1:
            raise ValueError(f"size = {size}, expected at least 1")
        self.size = size
        self.length = 0
        self._recent: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends tokens."""
        for token in tokens:
            if len(self._recent) == self.size - 1:
                self._followers.setdefault(self._recent, []).append(token)
            self._recent = (*self._recent, token)[-(self.size - 1) :] if self.size > 1 else ()
            self.length += 1

    def banned(self) -> list[int]:
        """The tokens that would complete an n-gram a second time."""
        return self._followers.get(self._recent, []) if len(self._recent) == self.size - 1 else []


def first_repeat(prompt: Sequence[int], answer: Sequence[int], size: int) -> int | None:
    """Index into `answer` of the first token that the rule forbids, or None."""
    history = NgramHistory(size, prompt)
    for index, token in enumerate(answer):
        if token in history.banned():
            return index
        history.extend([token])
    return None


def ban_repeats(
    logits_RV: "torch.Tensor",
    tokens_RL: "torch.Tensor",
    lengths_R: "torch.Tensor",
    sizes_R: "torch.Tensor",
) -> "torch.Tensor":
    """Sets the logits of forbidden tokens to -inf, in place.

    R rows, L width of the token matrix, V vocabulary.

    Args:
        logits_RV: [R, V] float.
        tokens_RL: [R, L] integer; what follows a row's length is ignored.
        lengths_R: [R] tokens of each row, prompt and answer.
        sizes_R: [R] n of each row; 0 leaves a row alone.
    Returns:
        `logits_RV`.
    """
    import torch

    width = tokens_RL.shape[1]
    tokens = tokens_RL.long()
    columns = torch.arange(width, device=tokens.device)
    for size in sorted(set(sizes_R.tolist()) - {0}):
        # Column c starts an n-gram that ends at c + size - 1, which must lie inside the row.
        num_starts = width - size + 1
        if num_starts < 1:
            continue
        starts = columns[:num_starts]
        matches = (starts[None, :] + size <= lengths_R[:, None]) & (sizes_R == size)[:, None]
        for offset in range(size - 1):
            last = (lengths_R - (size - 1) + offset).clamp(min=0)[:, None]
            current = tokens.gather(1, last.long())
            matches &= tokens[:, offset : offset + num_starts] == current
        rows, first = matches.nonzero(as_tuple=True)
        logits_RV[rows, tokens[rows, first + size - 1]] = float("-inf")
    return logits_RV
