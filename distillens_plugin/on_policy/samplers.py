"""Who samples on-policy answers: what the loader asks for, and the student itself.

The other sampler is a vLLM server with the student's weights (server_sampler.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import nn

from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.models.generating import Decoding, answer
from distillens_plugin.recipe.schema.on_policy import OnPolicy


class Sampler(Protocol):
    """What the loader asks for answers."""

    def start_step(self, step: int) -> None:
        """Called by all processes together before the first answer of an optimiser step.

        Args:
            step: its number within the epoch, from 0.
        """

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        """An answer for each prompt, up to and including its end token if it has one.

        All processes make this call together, and some may have no prompt: the weights of a sharded
        student are gathered by all of them.

        Args:
            row_ids: of the prompts' rows.
            max_length: longest prompt and answer together, in tokens.
        """


class StudentSampler:
    """transformers' generate, in eval mode; the random numbers of a batch depend on its rows.

    Args:
        model: the (wrapped) student.
        eos_id: ends an answer, as every one of `end_ids` does.
        num_ids: ids from here up are never sampled: the tokenizer or the teacher lacks them.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OnPolicy,
        *,
        eos_id: int,
        pad_id: int,
        seed: int,
        accelerator: Accelerator,
        end_ids: Sequence[int] = (),
        num_ids: int | None = None,
    ) -> None:
        self._model = model
        self._decoding = Decoding(
            end_ids=tuple(dict.fromkeys([eos_id, *end_ids])),
            pad_id=pad_id,
            max_new_tokens=settings.max_new_tokens,
            num_ids=num_ids,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
        self._seed = seed
        self._accelerator = accelerator

    def start_step(self, step: int) -> None:
        """Nothing to update: the student itself samples."""

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        model = unwrap(self._model)
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._accelerator.autocast():
            torch.manual_seed(hash_of(self._seed, epoch, *row_ids))
            return answer(model, prompts, replace(self._decoding, max_length=max_length))


def hash_of(*parts: object) -> int:
    """An integer in [0, 2^63) that depends on the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
