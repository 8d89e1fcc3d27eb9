"""Builds real torchdistill boxes on small models, the way a user's own script would."""

from pathlib import Path
from typing import Any

import torch
from small_models import small_model
from torch.utils.data import Dataset
from torchdistill.common.main_util import import_dependencies
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.core.distillation import DistillationBox

VOCABULARY = 61


class Rows(Dataset):
    """Random token rows; the first third of each is its prompt."""

    def __init__(self, num_rows: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths = [
            int(n) for n in torch.randint(6, 14, (num_rows,), generator=generator).tolist()
        ]
        self.examples = []
        for index, length in enumerate(self.lengths):
            ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
            labels = [-100] * (length // 3) + ids[length // 3 :]
            self.examples.append({"input_ids": ids, "labels": labels, "id": f"row-{index}"})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


def load_box_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe as torchdistill's own scripts read it: its loader, then its `dependencies`."""
    recipe = load_yaml_file(str(path))
    import_dependencies(recipe["dependencies"])
    return recipe


def build_models(
    tied: bool = True, teacher_vocabulary: int = VOCABULARY
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A 4-layer teacher and a 2-layer student, GPT-2, without dropout."""
    teacher = small_model("gpt2", layers=4, width=48, vocab=teacher_vocabulary, tied=tied, seed=1)
    student = small_model("gpt2", layers=2, width=32, vocab=VOCABULARY, tied=tied, seed=2)
    return teacher, student


def build_box(
    recipe: dict[str, Any],
    *,
    accelerator: Any = None,
    tied: bool = True,
    dataset: Any = None,
    teacher_vocabulary: int = VOCABULARY,
) -> DistillationBox:
    """The box of a recipe, on the CPU."""
    teacher, student = build_models(tied, teacher_vocabulary)
    distributed = accelerator is not None and accelerator.num_processes > 1
    return DistillationBox(
        teacher,
        student,
        {"train": dataset if dataset is not None else Rows()},
        recipe["train"],
        torch.device("cpu"),
        None,
        distributed,
        1.0,
        accelerator,
    )
