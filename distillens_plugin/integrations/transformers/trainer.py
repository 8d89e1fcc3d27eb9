"""`DistillLensTrainer`: transformers' Trainer with a teacher and the lens."""

from transformers import Trainer

from distillens_plugin.integrations.transformers.mixin import DistillLensMixin


class DistillLensTrainer(DistillLensMixin, Trainer):
    """Trains `model` to follow `teacher_model`; all else is transformers' Trainer.

    Args:
        teacher_model, distillens, terms: as of `DistillLensMixin`.
        model, args, data_collator, train_dataset, ...: as of the Trainer. Batches have `input_ids`
            and `labels`, [B, T], -100 where nothing is supervised.
    """
