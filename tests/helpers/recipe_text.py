"""A small valid recipe for tests, and writing variants of it."""

from pathlib import Path

DISTILLATION = """\
models:
  teacher_model: {name_or_path: some/teacher}
  student_model: {name_or_path: some/student}
datasets:
  train: {path: some/data}
train:
  num_epochs: 2
  train_data_loader: {kwargs: {batch_size: 4}}
  optimizer: {key: AdamW, kwargs: {lr: 1e-4}}
  criterion:
    key: distillens.weighted_sum
    kwargs:
      sub_terms:
        kd: {criterion: {key: distillens.logits_kd, kwargs: {divergence: rkl}}, weight: 1.0}
        lens:
          criterion:
            key: DistillLensLoss
            kwargs: {layers: {student: [1, 2], teacher: [2, 4]}, beta: 0.5}
          weight: 0.5
"""

FINE_TUNING = """\
models:
  model: {name_or_path: some/model}
datasets:
  train: {path: some/data}
train:
  num_steps: 10
  train_data_loader: {kwargs: {batch_size: 4}}
  optimizer: {kwargs: {lr: 1e-4}}
  criterion: {kwargs: {sub_terms: {ce: {criterion: {key: distillens.cross_entropy}}}}}
"""

LENS = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"


def write_recipe(folder: Path, text: str = DISTILLATION, name: str = "recipe.yaml") -> str:
    """The path of a recipe file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
