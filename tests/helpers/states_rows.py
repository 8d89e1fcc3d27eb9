"""Rows whose states are wanted, and what transformers says that they are.

Legend: N positions of a row, D width.
"""

import torch
from torch import nn

from distillens_plugin.teacher_cache.fill.engine import FillRow


def some_rows(num=24, seed=0, *, longest=96, vocab=320):
    """Of all lengths: the shortest there is, the longest, one position, odd ones, all of them."""
    draw = torch.Generator().manual_seed(seed)
    rows = [FillRow("shortest", [3, 4], [0])]
    ids = torch.randint(0, vocab, (longest,), generator=draw).tolist()
    rows += [FillRow("all", ids, list(range(longest - 1)))]
    # The same beginning: read from vLLM's cache of prompts, if at all.
    rows += [FillRow("again", [*ids[:60], 1, 2, 3], [2, 33, 61])]
    rows += [FillRow("first", ids[::-1], [0])]
    for number in range(num):
        length = int(torch.randint(2, longest + 1, (1,), generator=draw))
        ids = torch.randint(0, vocab, (length,), generator=draw).tolist()
        chosen = torch.randint(0, length - 1, (1 + length // 3,), generator=draw)
        rows.append(FillRow(f"row {number}", ids, sorted(set(chosen.tolist()))))
    return rows


def reference(model, row, layers):
    """States [N, D] by layer and log-probabilities [N], by transformers."""
    seen = {}

    def before(_, args, kwargs):
        seen[0] = args[0] if args else kwargs["hidden_states"]

    def after(k):
        def hook(_, __, output):
            seen[k] = output[0] if isinstance(output, tuple) else output

        return hook

    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [block.register_forward_hook(after(k)) for k, block in enumerate(blocks, start=1)]
    with torch.no_grad():
        log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
    for hook in hooks:
        hook.remove()
    following = torch.tensor([row.input_ids[i + 1] for i in row.positions])
    return {k: seen[k][0, row.positions] for k in layers}, log_probs[row.positions, following]
