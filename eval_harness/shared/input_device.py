"""Where a model takes its input, also if its parts are on several devices."""

from typing import Any

import torch


def input_device(model: Any) -> torch.device:
    """The device for input ids; the logits come back there.

    accelerate's hooks move tensors between the parts of a spread model, from and to its first
    device that computes: the weights of a part that is offloaded to memory or disk are copied there
    for each use, and themselves are on no device in the meantime.

    Args:
        model: a plain transformers model.
    """
    spread = getattr(model, "hf_device_map", None)
    if not spread:
        device: torch.device = model.get_input_embeddings().weight.device
        return device
    computing = [place for place in spread.values() if str(place) not in ("cpu", "disk")]
    return torch.device(computing[0] if computing else "cpu")
