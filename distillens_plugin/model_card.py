"""The README.md of a saved student: what it is, from what, with which results and versions."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("distillens", "torchdistill", "torch", "transformers", "accelerate")


def versions() -> dict[str, str]:
    """Installed versions of what a run depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def model_card(
    *,
    title: str,
    student: str,
    teacher: str | None,
    train_data: str,
    recipe_yaml: str,
    results: dict[str, Any],
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        student, teacher: how the models are named in the recipe; teacher None for plain training.
        train_data: one line on the training data and its counts.
        recipe_yaml: the recipe, overrides included.
        results: numbers by name, as they stood when the folder was written.
    """
    origin = f"distilled from {teacher}" if teacher else "trained without a teacher"
    rows = "\n".join(f"| {name} | {_show(value)} |" for name, value in results.items())
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [distillens, knowledge-distillation]
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


def _show(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
