"""The README.md of a saved student: what it is, from what, with which results and versions."""

import functools
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from distillens_plugin.models.merging import is_tied
from distillens_plugin.recipe.schema.models import StudentSpec

if TYPE_CHECKING:
    from peft import PeftModel

PACKAGES = ("distillens", "torchdistill", "torch", "transformers", "accelerate")


def versions() -> dict[str, str]:
    """Installed versions of what a run depends on."""
    return {package: _installed(package) for package in PACKAGES}


# Each look parses the package's metadata, and every saved model asks.
@functools.cache
def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def model_card(
    *,
    title: str,
    student: str,
    teacher: str | None,
    train_data: str,
    recipe_yaml: str,
    results: Mapping[str, object],
    metadata: str,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        student, teacher: how the models are named in the recipe; teacher None for plain training.
        train_data: one line on the training data and its counts.
        recipe_yaml: the recipe, overrides included.
        results: numbers by name, as they stood when the folder was written.
        metadata: the front matter, of `card_metadata`.
    """
    origin = f"distilled from {teacher}" if teacher else "trained without a teacher"
    rows = "\n".join(f"| {name} | {_show(value)} |" for name, value in results.items())
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"""---
{metadata.strip()}
---

# {title}

{student}, {origin} by distillens (the method: [DistillLens](https://arxiv.org/abs/2602.13567)).

Data: {train_data}

| result | value |
| --- | --- |
{rows}

Versions: {packages}.

## Recipe

```yaml
{recipe_yaml.strip()}
```
"""


def student_name(spec: StudentSpec) -> str:
    """How a card names what the student started from."""
    if spec.name_or_path is None:
        return "A model without pretrained weights"
    merged_in = f" with the adapter {spec.adapter} merged in" if spec.adapter else ""
    return f"{spec.name_or_path}{merged_in}"


def adapter_notes(model: "PreTrainedModel | PeftModel", plain: PreTrainedModel) -> str:
    """What a card says of LoRA; nothing where the model was trained whole.

    Args:
        model: as it was trained, possibly a PeftModel.
        plain: the same with its adapter merged in.
    """
    if plain is model:
        return ""
    base = model.peft_config["default"].base_model_name_or_path
    lines = (
        [f"`adapter/` holds the trained adapter alone; it belongs to the weights of {base}."]
        if base is not None
        else [
            "The trained adapter is merged in and not kept by itself: the weights that it belongs "
            "to are in no folder of their own."
        ]
    )
    if is_tied(model) and not is_tied(plain):
        lines.append(
            "The embedding and the unembedding of the model that was trained are one weight, and "
            "the adapter is on one of them only: merged, they are two (`tie_word_embeddings: "
            "false`)."
        )
    return "\n## Adapter\n\n" + " ".join(lines) + "\n"


def _show(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
