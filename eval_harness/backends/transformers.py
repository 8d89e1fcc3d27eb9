"""transformers: length-sorted, left-padded batches; runs anywhere.

The order of the requests and interruptions do not change an answer: batches are planned over the
whole run, and a resumed run repeats unfinished ones whole. Batch size and the other rows of a batch
change float32 logits in the last bits, so near ties may flip; see `sampling`. Models whose answers
depend on their neighbours (RWKV) get smaller batches; see `batching`.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from eval_harness.backends.base import (
    Answer,
    Backend,
    Continuation,
    LogLikelihood,
    Request,
    Sampling,
    plan_order,
)
from eval_harness.backends.end_tokens import strip_stop
from eval_harness.backends.token_chooser import TokenChooser
from eval_harness.backends.transformers_adapters import sharing_key, with_adapter
from eval_harness.backends.transformers_arguments import (
    ARGUMENTS,
    DEFAULT_BATCH_SIZE,
    checked_arguments,
    device_of,
    dtype_of,
    sampled_on,
    take_device,
)
from eval_harness.backends.transformers_spreading import SPREADING
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.batching import Batching, batching_of, split
from eval_harness.shared.input_device import input_device
from eval_harness.shared.model_folder.causality import NOT_CAUSAL, reads_later_tokens
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.identity import ModelFiles
from eval_harness.shared.model_folder.loaded_weights import check_loaded
from eval_harness.shared.padding import left_padded, right_padded
from eval_harness.shared.program.launcher import is_main_process

# Log-likelihoods need the logits of whole sequences, so their batches are limited by tokens.
_LIKELIHOOD_BATCH_TOKENS = 2048


class TransformersBackend(Backend):
    """A causal language model of transformers.

    Args:
        facts: from `read_model`.
        dtype: float32, bfloat16, float16, or auto for the checkpoint's own.
        device: a torch device; None: cuda if there is one.
        device_map, max_memory, offload_folder: of transformers, for a model that is larger than one
            device; None: it is on one.
        batch_size: rows in one batch.
        attn_implementation: of transformers; None for its default.
        trust_remote_code: allow code that comes with the model.
    """

    name = "hf"
    known_arguments = ARGUMENTS
    layout_arguments = frozenset({"batch_size", "device", *SPREADING})
    one_process = ""

    def __init__(
        self,
        facts: ModelFiles,
        *,
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | dict[str, int | str] | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        offload_folder: str | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.batch_size = batch_size
        self._has_said = False
        self.stop_token_ids = facts.stop_token_ids
        self.pad_token_id = facts.tokenizer.pad_token_id
        try:
            with foreign_errors(f"{facts.name}: the model does not load"), bars_on_terminals():
                model, report = AutoModelForCausalLM.from_pretrained(
                    facts.folder,
                    dtype=dtype_of(dtype),
                    device_map=device_map,
                    max_memory=max_memory,
                    offload_folder=offload_folder,
                    attn_implementation=attn_implementation,
                    trust_remote_code=trust_remote_code,
                    output_loading_info=True,
                    weights_only=True,
                    generation_config=GenerationConfig(),
                )
                check_loaded(model, report, facts.folder)
                if facts.adapter is not None:
                    model = with_adapter(model, facts)
        except DistillensError as error:
            raise RunFailure(str(error)) from error
        # The protocol replaces the folder's own generation settings (a temperature, a penalty).
        settings = GenerationConfig(
            do_sample=False,
            pad_token_id=self.pad_token_id,
            eos_token_id=list(self.stop_token_ids) or None,
        )
        self.model: Any = model.eval() if device_map else model.to(device_of(device)).eval()
        self.device = input_device(self.plain_model)
        if reads_later_tokens(self.plain_model):
            raise DistillensError(f"{facts.name}: {NOT_CAUSAL}")
        self.model.generation_config = self.plain_model.generation_config = settings

    @classmethod
    def sharing_key(
        cls, facts: ModelFiles, arguments: dict[str, Any], *, max_length: int
    ) -> str | None:
        return sharing_key(facts, arguments)

    def switch(self, facts: ModelFiles) -> None:
        """Takes the adapter off the base, and puts the next one on."""
        settings = self.plain_model.generation_config
        try:
            with foreign_errors(f"{facts.name}: the adapter does not load"):
                model = with_adapter(self.model.unload(), facts)
        except DistillensError as error:
            raise RunFailure(str(error)) from error
        self.facts = facts
        is_placed = hasattr(self.plain_model, "hf_device_map")
        self.model = (model if is_placed else model.to(self.device)).eval()
        self.model.generation_config = self.plain_model.generation_config = settings

    @classmethod
    def arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        return checked_arguments(given)

    @classmethod
    def take_device(
        cls, model_args: Mapping[str, Any], *, local_rank: int, local_size: int
    ) -> None:
        take_device(model_args, local_rank=local_rank, local_size=local_size)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the packages that answers depend on."""
        import transformers

        return {"torch": torch.__version__, "transformers": transformers.__version__}

    @classmethod
    def sampled_on(cls, arguments: dict[str, Any]) -> str:
        return sampled_on(arguments)

    @classmethod
    def load(
        cls,
        facts: ModelFiles,
        arguments: dict[str, Any],
        *,
        max_length: int,
        no_repeat_ngrams: bool,
        trust_remote_code: bool,
    ) -> "TransformersBackend":
        return cls(facts, trust_remote_code=trust_remote_code, **arguments)

    @property
    def plain_model(self) -> Any:
        """The transformers model itself, taken out of a PeftModel."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, done: frozenset[int] = frozenset()
    ) -> Iterator[Answer]:
        for batch in self.plan(requests):
            if not done.issuperset(batch):
                for answer in self._generate_batch(batch, requests, sampling):
                    if answer.index not in done:
                        yield answer

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        order = plan_order(requests)
        batching = batching_of(self.plain_model) if self.batch_size > 1 else Batching.ALONE
        self._say_once(batching)
        lengths = [len(requests[index].prompt_ids) for index in order]
        batches = [
            [order[place] for place in group[start : start + self.batch_size]]
            for group in split(lengths, batching)
            for start in range(0, len(group), self.batch_size)
        ]
        # Longest first: a batch that does not fit in memory fails at once, not after hours.
        return batches[::-1]

    def _say_once(self, batching: Batching) -> None:
        if self.batch_size > 1 and batching is not Batching.ANY and not self._has_said:
            self._has_said = True
            if is_main_process():
                name = type(self.plain_model).__name__
                print(f"{name} {batching.value}, which is slower", file=sys.stderr)

    @torch.inference_mode()
    def _generate_batch(
        self, batch: Sequence[int], requests: Sequence[Request], sampling: Sampling
    ) -> list[Answer]:
        prompts = [requests[index].prompt_ids for index in batch]
        input_ids, mask = left_padded(prompts, self.pad_token_id)
        seeds = [requests[index].seed for index in batch]
        stops = [*self.stop_token_ids, *sampling.stop_token_ids]
        chooser = TokenChooser(prompts, seeds, sampling, self.device)
        output = self.model.generate(
            input_ids=input_ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=stops or None,
            logits_processor=[chooser],
        )
        answers = []
        for index, tokens in zip(batch, output[:, input_ids.shape[1] :].tolist(), strict=True):
            token_ids, reason = strip_stop(tokens, stops)
            answers.append(Answer(index, token_ids, reason))
        return answers

    def plan_log_likelihoods(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        def length(index: int) -> int:
            return len(continuations[index].prompt_ids) + len(continuations[index].token_ids)

        order = sorted(range(len(continuations)), key=length, reverse=True)
        batches = []
        while order:
            num_rows = max(1, _LIKELIHOOD_BATCH_TOKENS // length(order[0]))
            batches.append(order[:num_rows])
            order = order[num_rows:]
        return batches

    @torch.inference_mode()
    def log_likelihoods(self, continuations: Sequence[Continuation]) -> Iterator[LogLikelihood]:
        for batch in self.plan_log_likelihoods(continuations):
            rows = [
                continuations[index].prompt_ids + continuations[index].token_ids for index in batch
            ]
            input_ids, mask = right_padded(rows, self.pad_token_id)
            logits = self.model(
                input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device)
            ).logits
            for row, index in enumerate(batch):
                first = len(continuations[index].prompt_ids)
                targets = torch.tensor(continuations[index].token_ids, device=logits.device)
                # Only the supervised positions: [B, T, V] in float32 would be twice the logits.
                scored = logits[row, first - 1 : first - 1 + len(targets)].float().log_softmax(-1)
                total = scored.gather(1, targets[:, None]).double().sum()
                yield LogLikelihood(index, float(total))

    def close(self) -> None:
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def bars_on_terminals() -> Iterator[None]:
    """No progress bars of transformers in a log file, or from all processes at once."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not (sys.stderr.isatty() and is_main_process()):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
