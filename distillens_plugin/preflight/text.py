"""`--validate`, part three: whether the tokenizer can do what templates and prompts ask of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.models.tokenizers import beginnings_differ
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trained_with import teacher_differences
from eval_harness.shared.text.tokenisation import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_text(
    recipe: Recipe,
    tokenizer: "PreTrainedTokenizerBase",
    teacher_tokenizer: "PreTrainedTokenizerBase | None",
) -> list[str]:
    """Renders chat templates, and looks up first and end tokens.

    Args:
        tokenizer: that of the data.
        teacher_tokenizer: None if it is the same one.
    Raises:
        DistillensError: a data set's template or add_bos_token asks for what the tokenizer lacks.
    """
    lines = []
    for split in ("train", "validation"):
        spec = getattr(recipe.datasets, split)
        if spec is None:
            continue
        try:
            encoder = TextEncoder(
                tokenizer, template=spec.template, add_bos_token=spec.add_bos_token
            )
        except DistillensError as error:
            key = "add_bos_token" if str(error).startswith("add_bos_token") else "template"
            raise DistillensError(f"{recipe.where(f'datasets.{split}.{key}')}: {error}") from None
        notes = encoder.describe()
        if teacher_tokenizer is not None and spec.add_bos_token == "auto":
            notes += beginnings_differ(teacher_tokenizer, tokenizer)
        teacher = recipe.models.teacher_model
        if split == "train" and teacher is not None:
            notes += teacher_differences(
                Path(teacher.adapter or teacher.name_or_path),
                spec.template,
                bool(encoder.prefix_ids),
            )
        if notes:
            lines.append(f"ok datasets.{split}: {'; '.join(notes)}")
    return lines
