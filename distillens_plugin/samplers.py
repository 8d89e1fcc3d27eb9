"""Who samples on-policy answers: what the loader asks for, and the student itself.

The other sampler is a vLLM server with the student's weights (server_sampler.py).
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import GenerationConfig

from distillens_plugin.architectures import unwrap
from distillens_plugin.probe import undisturbed
from distillens_plugin.schema_train import OnPolicy


class Sampler(Protocol):
    """What the loader asks for answers."""

    def start_step(self, step: int) -> None:
        """Called by all processes together before the first answer of an optimiser step.

        Args:
            step: of its epoch, from 0.
        """

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        """An answer for each prompt, up to and with its end token where it has one.

        Args:
            row_ids: of the prompts' rows.
            max_length: longest prompt and answer together, in tokens.
        """


class StudentSampler:
    """transformers' generate, in eval mode; the random numbers of a batch depend on its rows.

    Args:
        model: the (wrapped) student.
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
    ) -> None:
        self._model = model
        self._settings = settings
        self._eos_id, self._pad_id = eos_id, pad_id
        self._seed = seed
        self._accelerator = accelerator

    def start_step(self, step: int) -> None:
        """The student is at hand; nothing to bring up to date."""

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        settings = self._settings
        width = max(len(prompt) for prompt in prompts)
        # Rows of a batch have like lengths: the longest prompt may limit all of them.
        room = max_length - width
        generation = GenerationConfig(
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            # A model's own settings would fill what is not said here.
            top_k=0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            num_beams=1,
            max_new_tokens=min(settings.max_new_tokens or room, room),
            eos_token_id=self._eos_id,
            pad_token_id=self._pad_id,
        )
        model: Any = unwrap(self._model)
        device = next(model.parameters()).device
        ids = torch.full((len(prompts), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        devices = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            undisturbed(model),
            self._accelerator.autocast(),
        ):
            torch.manual_seed(hash_of(self._seed, epoch, *row_ids))
            generated = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=generation,
            )
        return [_until(answer, self._eos_id) for answer in generated[:, width:].tolist()]


def _until(answer: list[int], eos_id: int) -> list[int]:
    return answer[: answer.index(eos_id) + 1] if eos_id in answer else answer


def hash_of(*parts: object) -> int:
    """An integer in [0, 2^63) that depends on the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
