"""The fused lens: vocabulary losses from hidden states, never more than a chunk of rows at once.

`lens_divergence` is the one-group form. `walk` takes all groups of a training step at once: lens
pairs, the divergence of the final logits, and cross-entropy share one pass and one gradient of the
unembedding. `walk_naive` and `lens_divergence.naive` are the same by plain autograd. Needs torch
only.
"""

from distillens_plugin.fused.lens_divergence import lens_divergence, lens_divergence_naive
from distillens_plugin.fused.naive import head_logits, walk_naive
from distillens_plugin.fused.parts import CROSS_ENTROPY, CrossEntropy, Group, Head, WalkResult
from distillens_plugin.fused.walk import walk

__all__ = [
    "CROSS_ENTROPY",
    "CrossEntropy",
    "Group",
    "Head",
    "WalkResult",
    "head_logits",
    "lens_divergence",
    "lens_divergence_naive",
    "walk",
    "walk_naive",
]
