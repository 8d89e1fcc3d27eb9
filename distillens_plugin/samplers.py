"""How on-policy answers are sampled: by the student itself, or by a vLLM server with its weights.

Both give an answer for each prompt from the student of the optimiser step that it is for, up to and
with the end token where there is one.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GenerationConfig
from transformers.utils import logging

from distillens_plugin.architectures import unwrap
from distillens_plugin.checkpoint import replace_folder
from distillens_plugin.main_process import on_main_process
from distillens_plugin.models import merged
from distillens_plugin.probe import undisturbed
from distillens_plugin.schema_train import OnPolicy
from distillens_plugin.vllm_server import VllmServer
from eval_harness.errors import RunFailure

# A server that rounds to bfloat16 is off by a few hundredths of what separates two models.
_TOLERATED = 0.25


class Sampler(Protocol):
    """What the loader asks for answers."""

    def start_step(self) -> None:
        """Called by all processes together before the first answer of an optimiser step."""

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        """An answer for each prompt.

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

    def start_step(self) -> None:
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
        return [until(answer, self._eos_id) for answer in generated[:, width:].tolist()]


class ServerSampler:
    """A vLLM server, which gets the student's weights through a folder every `sync_every` steps.

    Before the first step the way of the weights is tried: the server gets a noisy student, whose
    log-probabilities of one prompt must come back, and then the student again. A server that keeps
    old weights, or a part of them, would otherwise go unnoticed.

    Args:
        model: the (wrapped) student.
        probe_ids: a prompt, for the trial.
    """

    def __init__(
        self,
        server: VllmServer,
        model: nn.Module,
        settings: OnPolicy,
        *,
        probe_ids: list[int],
        eos_id: int,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        assert settings.server is not None
        self._server = server
        self._model = model
        self._settings = settings
        self._sync_every = settings.server.sync_every
        self._probe_ids = probe_ids
        self._eos_id = eos_id
        self._seed = seed
        self._accelerator = accelerator
        self._num_steps = 0
        # Deleted when the process ends, or with this object.
        self._parent = (
            tempfile.TemporaryDirectory(prefix="distillens-", dir=settings.server.weights_dir)
            if accelerator.is_main_process
            else None
        )

    def start_step(self) -> None:
        first = self._num_steps == 0
        if self._num_steps % self._sync_every == 0:
            on_main_process(self._accelerator, self._try_and_update if first else self._update)
        self._num_steps += 1

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        longest = self._settings.max_new_tokens or max_length
        answers = self._server.sample(
            prompts,
            seeds=[hash_of(self._seed, epoch, row_id, "answer") for row_id in row_ids],
            max_new_tokens=[min(longest, max_length - len(prompt)) for prompt in prompts],
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            eos_id=self._eos_id,
        )
        return [until(answer, self._eos_id) for answer in answers]

    def _update(self) -> None:
        model = merged(unwrap(self._model))
        self._send(model, dict(model.state_dict()))

    def _try_and_update(self) -> None:
        model = merged(unwrap(self._model))
        plain = dict(model.state_dict())
        noisy = _with_noise(model)
        expected = [self._log_probabilities(model, weights) for weights in (plain, noisy)]
        apart = (expected[0] - expected[1]).abs().mean().item()
        self._send(model, plain)
        self._server.log_probabilities(self._probe_ids)
        for weights, wanted in ((noisy, expected[1]), (plain, expected[0])):
            self._send(model, weights)
            found = torch.tensor(self._server.log_probabilities(self._probe_ids))
            error = (found - wanted).abs().mean().item()
            if not error < _TOLERATED * apart:
                raise RunFailure(
                    f"{self._server.base_url}: does not take the student's weights: "
                    f"log-probabilities are off by {error:.2g} nats, where two models differ by "
                    f"{apart:.2g}; is it serving this student, without quantization? (vLLM's CPU "
                    "build keeps the old unembedding where it is tied to the embedding)"
                )

    def _send(self, model: Any, weights: dict[str, Tensor]) -> None:
        assert self._parent is not None
        folder = Path(self._parent.name).resolve() / "student"
        partial = folder.with_name("partial")
        try:
            with _no_progress_bar():
                # It takes the tensors out of the mapping that it is given.
                model.save_pretrained(partial, state_dict=dict(weights))
            replace_folder(partial, folder)
        except Exception as error:
            raise RunFailure(f"{folder}: cannot save the student for vLLM: {error}") from error
        self._server.load_weights(folder)

    def _log_probabilities(self, model: Any, weights: dict[str, Tensor]) -> Tensor:
        """As the server's, by the model itself; [T - 1], on the host."""
        ids = torch.tensor([self._probe_ids], device=next(model.parameters()).device)
        with undisturbed(model), self._accelerator.autocast():
            logits = functional_call(
                model, weights, kwargs={"input_ids": ids}, tie_weights=False
            ).logits
        scores = logits[0, :-1].float().log_softmax(-1)
        return scores.gather(-1, ids[0, 1:, None])[:, 0].cpu()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers shows one for each save, which would come between the run's own every step."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _with_noise(model: nn.Module) -> dict[str, Tensor]:
    """The state with every parameter 50 % off or so; tied ones stay tied."""
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: p.detach() * (1 + 0.5 * torch.randn(p.shape, generator=generator)).to(p)
        for name, p in model.named_parameters(remove_duplicate=True)
    }
    names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    for name, p in model.named_parameters(remove_duplicate=False):
        noisy[name] = noisy[names[id(p)]]
    return {**model.state_dict(), **noisy}


def until(answer: list[int], eos_id: int) -> list[int]:
    """Up to and with the first end token."""
    return answer[: answer.index(eos_id) + 1] if eos_id in answer else answer


def hash_of(*parts: object) -> int:
    """An integer in [0, 2^63) that depends on the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
