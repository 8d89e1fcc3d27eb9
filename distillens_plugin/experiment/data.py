"""The data of a run, and the tokenizer that made it."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.examples import InstructionDataset, load_examples
from distillens_plugin.data.streaming import StreamedDataset, TrainingData
from distillens_plugin.models.tokenizers import (
    beginnings_differ,
    check_vocabularies,
    load_tokenizer,
)
from distillens_plugin.preflight.rouge_check import check_best_by
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.shared.model_folder.trained_with import teacher_differences

RunData = tuple[PreTrainedTokenizerBase, TrainingData, InstructionDataset | None]


def load_data(recipe: Recipe) -> RunData:
    """Tokenizer, training and validation data; teacher and student must share a vocabulary."""
    spec = recipe.models.trained
    tokenizer = load_tokenizer(
        recipe.models.tokenizer_name,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
    )
    teacher = recipe.models.teacher_model
    notes: list[str] = []
    if teacher is not None and teacher.tokenizer_name != recipe.models.tokenizer_name:
        teachers = load_tokenizer(
            teacher.tokenizer_name,
            revision=teacher.revision,
            trust_remote_code=teacher.trust_remote_code,
        )
        check_vocabularies(teachers, tokenizer)
        if recipe.datasets.train.add_bos_token == "auto":
            notes = beginnings_differ(teachers, tokenizer)
    data = recipe.datasets
    where = recipe.where("datasets.train")
    train: TrainingData
    if data.train.streaming:
        train = StreamedDataset(data.train, tokenizer, where=where, seed=recipe.seed)
    else:
        train = load_examples(data.train, tokenizer, where=where)
    if teacher is not None:
        notes += teacher_differences(
            Path(teacher.adapter or teacher.name_or_path),
            data.train.template,
            bool(train.prefix_ids),
        )
    train.notes += tuple(notes)
    validation = None
    if data.validation is not None:
        validation = load_examples(
            data.validation,
            tokenizer,
            where=recipe.where("datasets.validation"),
            default_split="validation",
        )
        references = [row.references for row in validation.rows]
        note = check_best_by(recipe.train.best_by, references, recipe.where("datasets.validation"))
        validation.notes += (note,) if note is not None else ()
    return tokenizer, train, validation
