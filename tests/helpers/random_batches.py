"""Random rows as a lens map reads them: two batches of two rows, the first two tokens a prompt."""

import torch
from torch import Tensor

from distillens_plugin.data.supervision import Supervised, find_supervised


def random_batches(vocab: int, *, seed: int = 0) -> list[tuple[dict[str, Tensor], Supervised]]:
    """Ids of 3 to vocab - 1; rows of one batch differ in length."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for lengths in ((9, 7), (5, 8)):
        ids = torch.randint(3, vocab, (2, max(lengths)), generator=generator)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
            labels[row, 2:length] = ids[row, 2:length]
        batch = {"input_ids": ids, "attention_mask": mask}
        found.append((batch, Supervised(*find_supervised(labels))))
    return found
