"""On-policy distillation: some rows of each batch get answers that the student samples now.

The teacher then scores what the student itself would write, and any divergence and the lens apply
as usual. Answers are sampled when a batch is drawn, with the student of that optimiser step.

Sources: Agarwal et al. 2024 (GKD), arXiv 2306.13649, algorithm 1, for the share; Ko et al. 2024
(DistiLLM), arXiv 2402.03898, section 3.2, for the adaptive share (without its replay buffer).

Legend: B rows, T tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.collate import Batch, collate
from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.loader_position import batches_from
from distillens_plugin.data.supervision import IGNORED, Targets
from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.lens.positions import num_positions
from distillens_plugin.models.end_tokens import end_token_ids
from distillens_plugin.models.generating import begin, num_token_ids
from distillens_plugin.on_policy.samplers import Sampler, StudentSampler, hash_of
from distillens_plugin.on_policy.server_sampler import ServerSampler
from distillens_plugin.on_policy.vllm_client import VllmClient
from distillens_plugin.recipe.schema.on_policy import OnPolicy
from eval_harness.errors import DistillensError


class Share:
    """Which part of the rows is sampled.

    `fixed` keeps its start. `adaptive` grows by `step` whenever the validation loss is higher than
    the last loss that raised it (at first: before training) by at least `tolerance`: as long as the
    references still help, they are cheaper.

    Args:
        settings: the recipe's `train.on_policy`.
    """

    def __init__(self, settings: OnPolicy) -> None:
        self.value: float = settings.share
        self._settings = settings
        self._last_loss: float | None = None

    def state(self) -> dict[str, float | None]:
        """For `restore`."""
        return {"value": self.value, "last_loss": self._last_loss}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.value, self._last_loss = state["value"], state["last_loss"]

    def after_validation(self, loss: float) -> None:
        """Takes a validation loss; the first one is that before training."""
        if self._settings.schedule != "adaptive":
            return
        if self._last_loss is None:
            self._last_loss = loss
        elif loss >= self._last_loss + self._settings.tolerance:
            self.value = min(1.0, self.value + self._settings.step)
            self._last_loss = loss


class OnPolicyLoader:
    """A box's data loader with sampled answers; otherwise it behaves like the loader it wraps.

    Which rows are sampled depends only on seed, epoch and row id. The random numbers of a batch
    depend on these of all its sampled rows (with a server, those of a row on that row alone).
    Neither depends on the number of processes or on the global generator.

    Args:
        loader: prepared; its batches are those of `distillens.collate`.
        model: the (wrapped) student, which answers.
        teacher: scores the answers; its positions limit them as the student's do.
        dataset: the training rows, for their prompts; rows with the same id must share a prompt.
        settings: the recipe's `train.on_policy`.
        batches_per_step: batches whose gradients are added up in one optimiser step.

    Attributes:
        share: the part of the rows that is sampled now.
        num_sampled: rows sampled so far by this process.
        max_length: longest prompt and answer together, in tokens.

    Raises:
        DistillensError: two rows with one id and different prompts.
    """

    def __init__(
        self,
        loader: Any,
        model: nn.Module,
        teacher: nn.Module,
        dataset: InstructionDataset,
        settings: OnPolicy,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        accelerator: Accelerator,
        batches_per_step: int,
    ) -> None:
        self.loader = loader
        self.share = Share(settings)
        self.num_sampled = 0
        self._pad_id = tokenizer.pad_token_id
        positions = [num_positions(unwrap(each).config) for each in (model, teacher)]
        self.max_length = min([dataset.spec.max_length, *(n for n in positions if n is not None)])
        self._prompts = _prompts(dataset, tokenizer)
        self._loss_on_prompt = dataset.spec.loss_on_prompt
        self._seed = seed
        self._batches_per_step = batches_per_step
        self._epoch = 0
        common: dict[str, Any] = {
            "model": model,
            "settings": settings,
            "eos_id": tokenizer.eos_token_id,
            "end_ids": end_token_ids(tokenizer, dataset),
            "num_ids": num_token_ids(tokenizer, model, teacher),
            "seed": seed,
            "accelerator": accelerator,
        }
        self._sampler: Sampler
        if settings.server is None:
            self._sampler = StudentSampler(pad_id=self._pad_id, **common)
        else:
            server = VllmClient(settings.server.base_url, timeout_s=settings.server.timeout_s)
            self._sampler = ServerSampler(server, probe_ids=self._probe_ids(dataset), **common)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)

    def set_epoch(self, epoch: int) -> None:
        """Each epoch samples other rows with other random numbers."""
        self._epoch = epoch
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches_from(0)

    def batches_from(self, num_taken: int) -> Iterator[Batch]:
        """The batches of the epoch after the first `num_taken`, which are whole optimiser steps."""
        batches = batches_from(self.loader, num_taken)
        for index, (batch, targets) in enumerate(batches, start=num_taken):
            # All processes have the same share, so all of them make this call together.
            step, batch_of_step = divmod(index, self._batches_per_step)
            if batch_of_step == 0 and self.share.value > 0:
                self._sampler.start_step(step)
            yield self.with_samples(batch, targets)

    def with_samples(self, batch: dict[str, Tensor], targets: Targets) -> Batch:
        """The batch with sampled answers in the chosen rows, on the same device."""
        row_ids = targets["row_ids"]
        lengths = batch["attention_mask"].sum(1).tolist()
        ids, labels = batch["input_ids"].tolist(), targets["labels"].tolist()
        rows = [
            {"input_ids": ids[i][:length], "labels": labels[i][:length], "id": row_ids[i]}
            for i, length in enumerate(lengths)
        ]
        prompts = {
            index: prompt
            for index, row in enumerate(rows)
            if self._is_chosen(row["id"])
            and len(prompt := self._prompts[row["id"]]) < self.max_length
        }
        if self.share.value == 0:
            return batch, targets
        chosen_ids = [row_ids[index] for index in prompts]
        answers = self._sampler.sample(
            list(prompts.values()), chosen_ids, epoch=self._epoch, max_length=self.max_length
        )
        if not prompts:
            return batch, targets
        for (index, prompt), answer in zip(prompts.items(), answers, strict=True):
            masked = prompt if self._loss_on_prompt else [IGNORED] * len(prompt)
            rows[index]["input_ids"] = prompt + answer
            rows[index]["labels"] = masked + answer
        self.num_sampled += len(prompts)
        limits = {"pad_id": self._pad_id, "max_length": self.max_length}
        new_batch, new_targets = collate([{**row, **limits} for row in rows])
        device = batch["input_ids"].device
        moved = cast(Targets, _to({**new_targets}, targets["labels"].device))
        return _to(new_batch, device), {**targets, **moved}

    def _probe_ids(self, dataset: InstructionDataset) -> list[int]:
        """The longest row, truncated to leave room for one more token."""
        longest = max(range(len(dataset)), key=lambda index: dataset.lengths[index])
        row = dataset.rows[longest]
        ids = [*self._prompts[str(row.id)], *row.response_ids]
        return ids[: self.max_length - 1]

    def _is_chosen(self, row_id: str) -> bool:
        return hash_of(self._seed, self._epoch, row_id) / 2**63 < self.share.value


def _prompts(
    dataset: InstructionDataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """By row id; an empty prompt begins with a token, as it does when it is evaluated."""
    prompts: dict[str, list[int]] = {}
    for row in dataset.rows:
        prompt = begin(row.prompt_ids, tokenizer)
        if prompts.setdefault(str(row.id), prompt) != prompt:
            raise DistillensError(
                f"{dataset.spec.path}: two rows have the id {row.id!r} and different prompts, but "
                "on_policy finds prompts by row id; give each row its own id"
            )
    return prompts


def _to(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
