"""The table that readers of logit lenses know: the top tokens of each layer at each position.

Legend: T positions, K top tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.translators import Translators
from distillens_plugin.lens_maps.rows import (
    LayerRows,
    check_batches,
    chunks,
    entropy_of,
    read_rows,
    reading,
)
from distillens_plugin.lens_maps.statistics import rank_of
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class TokenTable:
    """What a lens reads at some positions of one text; arrays of [L + 1, T] or [L + 1, T, K].

    Attributes:
        layers: 0 (the embeddings) to L.
        positions: in the text, 0 the first token.
        tokens: [T] texts, what stands at each position; `next_tokens`, what follows it.
        top_tokens: [L + 1][T][K] texts, the most probable first.
        top_probabilities: [L + 1, T, K].
        true_rank, true_probability: of the token that follows; equal logits share the best rank.
        entropy: nats.
        norm: `identity`, `final` or `tuned`.
    """

    layers: list[int]
    positions: list[int]
    tokens: list[str]
    next_tokens: list[str]
    top_tokens: list[list[list[str]]]
    top_probabilities: NDArray[np.float64]
    true_rank: NDArray[np.int64]
    true_probability: NDArray[np.float64]
    entropy: NDArray[np.float64]
    norm: str


def token_table(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[int],
    *,
    positions: Sequence[int] | None = None,
    num_top: int = 5,
    norm: str = "identity",
    translators: Translators | None = None,
) -> TokenTable:
    """Reads one text.

    Args:
        input_ids: of the text, at least two.
        positions: those to read, each before the last; None is all of them.
        num_top: K.
        norm, translators: as in `layer_statistics`.
    Raises:
        DistillensError: a text of one token, or with tokens that the model lacks, a position
            outside it, no top token, or another norm.
    """
    ids = [int(token) for token in input_ids]
    where = list(range(len(ids) - 1)) if positions is None else [int(p) for p in positions]
    if not where or not all(0 <= position < len(ids) - 1 for position in where):
        raise DistillensError(
            f"positions {where}: expected some of 0 to {len(ids) - 2}, those that a token follows"
        )
    if num_top < 1:
        raise DistillensError(f"num_top = {num_top}, expected at least 1")
    layers = list(range(lens_of(model).num_layers + 1))
    with reading(model):
        device = next(model.parameters()).device
        row = torch.tensor([ids], device=device)
        at = torch.tensor(where, device=device)
        batch = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        supervised = Supervised(at, row[0, at + 1])
        check_batches([(batch, supervised)], model)
        rows = read_rows(model, batch, supervised, layers, norm=norm, translators=translators)
        found = _read(rows, layers, min(num_top, rows.head.vocab_size))
    top_ids = found.pop("top_ids")
    text = _Texts(tokenizer)
    return TokenTable(
        layers=layers,
        positions=where,
        tokens=[text(ids[position]) for position in where],
        next_tokens=[text(ids[position + 1]) for position in where],
        top_tokens=[[[text(i) for i in best] for best in layer] for layer in top_ids.tolist()],
        top_probabilities=found["top"].double().numpy(),
        true_rank=found["rank"].numpy(),
        true_probability=found["true"].double().numpy(),
        entropy=found["entropy"].double().numpy(),
        norm="tuned" if translators is not None else norm,
    )


def _read(rows: LayerRows, layers: list[int], num_top: int) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}
    for chunk in chunks(len(rows), len(layers), rows.head.vocab_size, rows.final.device):
        logits = rows.logits(layers, chunk)
        labels = rows.labels[chunk].expand(len(layers), -1).unsqueeze(-1)
        read = logits.log_softmax(-1)
        top, top_ids = read.topk(num_top, dim=-1)
        found = {
            "rank": rank_of(labels, logits),
            "entropy": entropy_of(read),
            "true": read.gather(-1, labels).squeeze(-1).exp(),
            "top": top.exp(),
            "top_ids": top_ids,
        }
        for name, value in found.items():
            parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values, dim=1) for name, values in parts.items()}


class _Texts:
    """The text of a token by itself; of an id that the tokenizer does not know, its number."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            text = str(self._tokenizer.decode([token])) if token < len(self._tokenizer) else ""
            self._known[token] = text or f"<{token}>"
        return self._known[token]
