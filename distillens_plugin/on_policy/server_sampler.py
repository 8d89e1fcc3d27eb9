"""On-policy answers from a vLLM server that holds the student's weights."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.lens.probe import undisturbed
from distillens_plugin.models.generating import num_unembedded
from distillens_plugin.models.merging import merged
from distillens_plugin.on_policy.vllm_client import VllmClient
from distillens_plugin.on_policy.weights_check import WeightsCheck
from distillens_plugin.on_policy.weights_folder import WeightsFolder
from distillens_plugin.recipe.schema.on_policy import OnPolicy
from distillens_plugin.sharding.state import model_state
from distillens_plugin.sharding.whole_model import whole_model
from distillens_plugin.storage.main_process import on_main_process
from eval_harness import request_seed
from eval_harness.errors import RunFailure
from eval_harness.shared.files.exchange import replace_folder


class ServerSampler:
    """A vLLM server, which gets the student's weights through a folder every `sync_every` steps.

    Steps are counted within their epoch, so that a run that resumes at the end of an epoch samples
    the same answers as an uninterrupted one. (Within an epoch only if `sync_every` is 1: the
    weights of an earlier step are gone.)

    Before the first step the transfer of weights is tested: the server is sent a noisy student and
    must report that student's log-probabilities of one prompt. Then it is sent the student again. A
    server that keeps old weights, or some of them, would otherwise go unnoticed. Each later
    transfer asks for that prompt twice: before it, the server must still have the previous weights;
    after it, the new ones.

    Args:
        model: the (wrapped) student.
        probe_ids: tokens of one row, for the test.
        end_ids: tokens that end an answer, as `eos_id` does.
        num_ids: ids from here up are not to be sampled.
        vocab_size: rows of the student's unembedding.
    """

    def __init__(
        self,
        server: VllmClient,
        model: nn.Module,
        settings: OnPolicy,
        *,
        probe_ids: list[int],
        eos_id: int,
        seed: int,
        accelerator: Accelerator,
        end_ids: Sequence[int] = (),
        num_ids: int | None = None,
    ) -> None:
        assert settings.server is not None
        self._server = server
        self._model = model
        self._settings = settings
        self._sync_every = settings.server.sync_every
        self._probe_ids = probe_ids
        self._eos_id, self._end_ids = eos_id, tuple(end_ids)
        self._num_ids = num_ids
        self._seed = seed
        self._accelerator = accelerator
        # Log-probabilities under the weights that the server has; what tells them from others.
        self._expected = torch.empty(0)
        self._check: WeightsCheck | None = None
        self._folder = (
            WeightsFolder(settings.server.weights_dir) if accelerator.is_main_process else None
        )

    def start_step(self, step: int) -> None:
        # A run that resumes within an epoch finds a server with whatever weights.
        if self._check is None or step % self._sync_every == 0:
            student = unwrap(self._model)
            weights = model_state(student)
            self._expected, apart = on_main_process(
                self._accelerator, lambda: self._update(whole_model(student, weights))
            )
            if self._check is None:
                self._check = WeightsCheck(self._server.base_url, apart)
            self._check.remember(self._expected)

    def sample(
        self, prompts: Sequence[list[int]], row_ids: Sequence[str], *, epoch: int, max_length: int
    ) -> list[list[int]]:
        if not prompts:
            return []
        longest = self._settings.max_new_tokens or max_length
        num_retries = self._server.num_retries
        answers = self._server.sample(
            prompts,
            seeds=[request_seed(self._seed, f"epoch {epoch}", row_id) for row_id in row_ids],
            max_new_tokens=[min(longest, max_length - len(prompt)) for prompt in prompts],
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            num_ids=self._num_ids,
            vocab_size=num_unembedded(unwrap(self._model)),
            eos_id=self._eos_id,
            end_ids=self._end_ids,
        )
        if self._server.num_retries != num_retries:
            # The server may have been restarted, with the weights of its command line.
            self._verify()
        return answers

    def _verify(self) -> None:
        if self._check is not None:
            self._check.check(self._server.log_probabilities(self._probe_ids), self._expected)

    def _update(self, student: Any) -> tuple[Tensor, float]:
        """Sends the student; returns its log-probabilities, and how far those of two models differ.

        First makes sure that the answers since the last transfer came from the weights sent then.

        Args:
            student: whole, and not wrapped.
        """
        self._verify()
        model = merged(student)
        plain = dict(model.state_dict())
        expected = self._log_probabilities(model, plain)
        check = self._check or self._tried(model, plain, expected)
        self._send(model, plain)
        check.check(self._server.log_probabilities(self._probe_ids), expected)
        return expected, check.apart

    def _tried(self, model: Any, plain: dict[str, Tensor], expected: Tensor) -> WeightsCheck:
        """Sends a noisy student, whose log-probabilities the server must then report."""
        noisy = _with_noise(model)
        expected_noisy = self._log_probabilities(model, noisy)
        apart = (expected - expected_noisy).abs().mean().item()
        check = WeightsCheck(self._server.base_url, apart)
        self._send(model, plain)
        self._server.log_probabilities(self._probe_ids)
        self._send(model, noisy)
        check.check(self._server.log_probabilities(self._probe_ids), expected_noisy)
        return check

    def _send(self, model: Any, weights: dict[str, Tensor]) -> None:
        assert self._folder is not None  # on the main process
        folder = self._folder.student
        partial = folder.with_name("partial")
        try:
            # save_pretrained removes the tensors from the mapping that it is given.
            model.save_pretrained(partial, state_dict=dict(weights))
            replace_folder(partial, folder)
        except Exception as error:
            raise RunFailure(f"{folder}: cannot save the student for vLLM: {error}") from error
        self._server.load_weights(folder)

    def _log_probabilities(self, model: Any, weights: dict[str, Tensor]) -> Tensor:
        """What the server should report, by the model itself; [T - 1], on the host."""
        ids = torch.tensor([self._probe_ids], device=next(model.parameters()).device)
        with undisturbed(model), self._accelerator.autocast():
            logits = functional_call(
                model, weights, kwargs={"input_ids": ids}, tie_weights=False
            ).logits
        scores = logits[0, :-1].float().log_softmax(-1)
        return scores.gather(-1, ids[0, 1:, None])[:, 0].cpu()


def _with_noise(model: nn.Module) -> dict[str, Tensor]:
    """The state with every parameter off by about 50 %; tied ones stay tied."""
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: p.detach() * (1 + 0.5 * torch.randn(p.shape, generator=generator)).to(p)
        for name, p in model.named_parameters(remove_duplicate=True)
    }
    names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    for name, p in model.named_parameters(remove_duplicate=False):
        noisy[name] = noisy[names[id(p)]]
    return {**model.state_dict(), **noisy}
