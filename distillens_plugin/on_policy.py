"""On-policy distillation: some rows of each batch get answers that the student samples now.

The teacher then scores what the student itself would write, and any divergence and the lens apply
as usual. Answers are sampled when a batch is drawn, with the student of that optimiser step.

Sources: Agarwal et al. 2024 (GKD), arXiv 2306.13649, algorithm 1, for the share; Ko et al. 2024
(DistiLLM), arXiv 2402.03898, section 3.2, for the adaptive share (without its replay buffer).

Legend: B rows, T tokens.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from distillens_plugin.architectures import unwrap
from distillens_plugin.collate import collate
from distillens_plugin.data import InstructionDataset
from distillens_plugin.probe import undisturbed
from distillens_plugin.supervision import IGNORED
from eval_harness.errors import DistillensError

Batch = tuple[dict[str, Tensor], dict[str, Any]]


class Share:
    """Which part of the rows is sampled.

    `fixed` keeps its start. `adaptive` grows by `step` whenever the validation loss is higher than
    the last loss that raised it (at first: before training) by at least `tolerance`: as long as the
    references still help, they are cheaper.

    Args:
        settings: the recipe's `train.on_policy` (schema.OnPolicy).
    """

    def __init__(self, settings: Any) -> None:
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
    """A box's data loader with sampled answers; everything else of the loader is as it was.

    Which rows are sampled depends on seed, epoch and row id alone, and the random numbers of a
    batch on those of its rows: neither on the number of processes nor on the global generator.

    Args:
        loader: prepared; its batches are those of `distillens.collate`.
        model: the (wrapped) student, which answers.
        teacher: scores the answers; its positions limit them as the student's do.
        dataset: the training rows, for their prompts; an id that comes twice must have one prompt.
        settings: the recipe's `train.on_policy`.

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
        settings: Any,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.loader = loader
        self.share = Share(settings)
        self.num_sampled = 0
        self._model = model
        self._settings = settings
        self._eos_id, self._pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        positions = [_positions(unwrap(each)) for each in (model, teacher)]
        self.max_length = min([dataset.spec.max_length, *(n for n in positions if n is not None)])
        self._prompts = _prompts(dataset)
        self._loss_on_prompt = dataset.spec.loss_on_prompt
        self._seed = seed
        self._accelerator = accelerator
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, other rows and other random numbers."""
        self._epoch = epoch
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for batch, targets in self.loader:
            yield self.with_samples(batch, targets)

    def with_samples(self, batch: dict[str, Tensor], targets: dict[str, Any]) -> Batch:
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
            and 0 < len(prompt := self._prompts[row["id"]]) < self.max_length
        }
        if not prompts:
            return batch, targets
        for (index, prompt), answer in zip(
            prompts.items(), self._sample(list(prompts.values()), row_ids), strict=True
        ):
            masked = prompt if self._loss_on_prompt else [IGNORED] * len(prompt)
            rows[index]["input_ids"] = prompt + answer
            rows[index]["labels"] = masked + answer
        self.num_sampled += len(prompts)
        limits = {"pad_id": self._pad_id, "max_length": self.max_length}
        new_batch, new_targets = collate([{**row, **limits} for row in rows])
        device = batch["input_ids"].device
        return _to(new_batch, device), {**targets, **_to(new_targets, targets["labels"].device)}

    def _is_chosen(self, row_id: str) -> bool:
        return _hash(self._seed, self._epoch, row_id) / 2**63 < self.share.value

    def _sample(self, prompts: list[list[int]], row_ids: list[str]) -> list[list[int]]:
        """An answer for each prompt, up to and with its end token if it has one."""
        settings = self._settings
        width = max(len(prompt) for prompt in prompts)
        # Rows of a batch have like lengths: the longest prompt may limit all of them.
        room = self.max_length - width
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
            torch.manual_seed(_hash(self._seed, self._epoch, *row_ids))
            generated = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=generation,
            )
        return [_until(answer, self._eos_id) for answer in generated[:, width:].tolist()]


def _prompts(dataset: InstructionDataset) -> dict[str, list[int]]:
    prompts: dict[str, list[int]] = {}
    for row in dataset.rows:
        if prompts.setdefault(str(row.id), row.prompt_ids) != row.prompt_ids:
            raise DistillensError(
                f"{dataset.spec.path}: two rows have the id {row.id!r} and different prompts, and "
                "on_policy finds prompts by their ids; give each row its own"
            )
    return prompts


def _positions(model: Any) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)


def _until(answer: list[int], eos_id: int) -> list[int]:
    return answer[: answer.index(eos_id) + 1] if eos_id in answer else answer


def _hash(*parts: object) -> int:
    """An integer in [0, 2^63) that depends on the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _to(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
