"""`DistillLensMixin`: the lens in any subclass of transformers' Trainer, through `compute_loss`."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillens_plugin.attached.attached_lens import AttachedLens
from distillens_plugin.integrations.transformers.arguments import (
    DistillLensArguments,
    arguments_or_default,
)
from distillens_plugin.integrations.transformers.refusals import check_trainer
from distillens_plugin.integrations.transformers.sharding import find_lens, shard_teacher
from distillens_plugin.integrations.transformers.teacher import is_to_be_sharded, placed_teacher
from distillens_plugin.integrations.transformers.term_averages import RowAverages, WindowAverages
from distillens_plugin.losses.term import Term
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import Trainer
    from transformers.trainer_utils import EvalLoopOutput
else:
    Trainer = object  # it is mixed into one


class DistillLensMixin(Trainer):
    """Puts the lens on a Trainer: `class MyTrainer(DistillLensMixin, SomeTrainer): pass`.

    The model trains on the weighted sum of `distillens`'s terms; with `trainer_loss` the loss that
    `SomeTrainer` computes is one of them. Each term's value is logged under its own name (`lens`,
    `lens/2-8`, `kd`), in evaluation with the prefix (`eval_lens`). Only the student is saved.

    Args:
        teacher_model: a causal LM; it is put on the student's device unless it was loaded with a
            device map or quantised, and into pieces where the student is (FSDP2). None where no
            term reads it.
        distillens: the terms; None is `DistillLensArguments()`.
        terms: further terms by name, each with its weight, as for `AttachedLens`.
        args, kwargs: as for the Trainer.

    Attributes:
        lens: the `AttachedLens`.
    Raises:
        DistillensError: settings of the Trainer that the lens does not honour, or arguments that do
            not fit the models.
    """

    def __init__(
        self,
        *args: Any,
        teacher_model: nn.Module | None = None,
        distillens: DistillLensArguments | None = None,
        terms: Mapping[str, tuple[Term, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.distillens = arguments_or_default(distillens)
        super().__init__(*args, **kwargs)
        check_trainer(self, uses_own_loss=bool(self.distillens.trainer_loss))
        self.teacher_model = placed_teacher(teacher_model, self.accelerator)
        self._more_terms = terms
        self._attach(self.model)
        if self.teacher_model is not None and is_to_be_sharded(teacher_model, self.accelerator):
            shard_teacher(self.teacher_model, self.accelerator)
        # How the Trainer's own loss is scaled; ours is divided by the whole step's tokens, which
        # the Trainer counts only if these say so.
        self._own_accepts_count: bool = self.model_accepts_loss_kwargs  # type: ignore[has-type]
        self._own_is_scaled = getattr(self, "loss_is_scaled_for_ga", None)
        self.model_accepts_loss_kwargs, self.loss_is_scaled_for_ga = True, None
        self._loss_shifts_labels = True
        self._train_terms, self._eval_terms = WindowAverages(), RowAverages()
        self._evaluating, self._keep_logits = False, True

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The Trainer's; the lens sees the new model before the Trainer shards it."""
        model = super().call_model_init(trial)
        if self.accelerator.is_fsdp2:
            find_lens(model, self.accelerator)
        return model  # type: ignore[no-any-return]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of all terms on a batch, scaled as the Trainer expects it.

        Args:
            inputs: with `labels`, [B, T].
            num_items_in_batch: supervised tokens of the whole optimiser step.
        Returns:
            The 0-d loss; with `return_outputs` also what the student's forward pass returned.
        """
        lens = self._lens_on(model)
        batch = dict(inputs)
        labels = batch.pop("labels", None)
        if labels is None:
            raise DistillensError(
                f"{type(self).__name__}: the batch has no labels, but {', '.join(batch)}; the data "
                "collator must make them: [B, T], -100 where nothing is supervised"
            )
        own, outputs = None, None
        own_weight = self.distillens.trainer_loss or 0.0
        if own_weight:
            own, outputs = self._own_loss(model, inputs, num_items_in_batch)
        elif not self.distillens.headless or (return_outputs and self._keep_logits):
            outputs = model(**batch)
        with lens.headless() if self.distillens.headless else contextlib.nullcontext():
            if outputs is None:
                outputs = model(**batch)
            self._run_teacher(batch)
        loss = lens.loss(labels, num_items_in_batch=num_items_in_batch)
        scale = self._scale(num_items_in_batch)
        loss, values = loss * scale, {name: value * scale for name, value in lens.values.items()}
        if own is not None:
            loss = loss + own_weight * own
            values["trainer_loss"] = own.detach()
        self._keep_values(values, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The Trainer's, with the terms kept, and without logits where only the loss is asked."""
        self._evaluating, self._keep_logits = True, not prediction_loss_only
        try:
            loss, logits, labels = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys=ignore_keys
            )
        finally:
            self._evaluating, self._keep_logits = False, True
        rows = self.args.eval_batch_size
        self._eval_terms.close_batch(rows, self.gather_function, self.accelerator.device)
        return loss, logits, labels

    def evaluation_loop(
        self,
        dataloader: "DataLoader[Any]",
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> "EvalLoopOutput":
        """The Trainer's, with each term's mean among the metrics."""
        self._eval_terms = RowAverages()
        output = super().evaluation_loop(
            dataloader,
            description,
            prediction_loss_only=prediction_loss_only,
            ignore_keys=ignore_keys,
            metric_key_prefix=metric_key_prefix,
        )
        for name, value in self._eval_terms.means().items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, with the terms of the window beside the training loss."""
        # These two only stand together in what the training loop logs, on every process.
        if "loss" in logs and "learning_rate" in logs:
            logs |= self._train_terms.take(self.accelerator)
        super().log(logs, start_time)

    def _lens_on(self, model: nn.Module) -> AttachedLens:
        """The lens, moved to the model that is trained now: `model_init` makes new ones."""
        student = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if student is not self._student:
            self.lens.remove()
            self._attach(student)
        return self.lens

    def _attach(self, student: nn.Module) -> None:
        self._student = student
        for model in (student, self.teacher_model):
            if model is not None:
                find_lens(model, self.accelerator)
        options = self.distillens.attached_lens_options()
        self.lens = AttachedLens(student, self.teacher_model, terms=self._more_terms, **options)
        if trained := sorted(self.lens.trained_parameters()):
            self.lens.remove()
            raise DistillensError(
                f"{type(self).__name__}: terms train {trained[0]!r}, which the Trainer's optimiser "
                "does not know; set projection: none, with models of equal width"
            )

    def _run_teacher(self, batch: Mapping[str, Any]) -> None:
        if self.teacher_model is not None:
            # The student's forward runs under the Trainer's autocast, too.
            with torch.no_grad(), self.accelerator.autocast():
                self.teacher_model(**batch)

    def _own_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None
    ) -> tuple[Tensor, Any]:
        """The loss of the class that this is mixed into, on the scale of ours."""
        self.model_accepts_loss_kwargs = self._own_accepts_count
        try:
            own, outputs = super().compute_loss(
                model, dict(inputs), return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        finally:
            self.model_accepts_loss_kwargs = True
        is_scaled = self._own_is_scaled
        if is_scaled is None:
            is_scaled = self._own_accepts_count or self.compute_loss_func is not None
        if num_items_in_batch is not None and not is_scaled and not self._evaluating:
            own = own / self.current_gradient_accumulation_steps
        return own, outputs

    def _scale(self, num_items_in_batch: Tensor | int | None) -> int:
        """DDP takes the mean over processes of what is divided by the tokens of all of them."""
        if num_items_in_batch is None or not self.args.average_tokens_across_devices:
            return 1
        return self.accelerator.num_processes

    def _keep_values(
        self, values: dict[str, Tensor], num_items_in_batch: Tensor | int | None
    ) -> None:
        if self._evaluating:
            self._eval_terms.add(values)
        elif torch.is_grad_enabled():
            if num_items_in_batch is None:
                # The Trainer then takes the mean over the micro-batches.
                steps = self.current_gradient_accumulation_steps
                values = {name: value / steps for name, value in values.items()}
            self._train_terms.add(values, self.state.global_step)
