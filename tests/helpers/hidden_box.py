"""A plain torchdistill box with one hidden-state term, and the states that it compares."""

import torch
from boxes import load_box_recipe

PAIRS = [(1, 2), (2, 4)]
LAYERS = {"student": [1, 2], "teacher": [2, 4]}

BOX = """\
dependencies: [{name: distillens_plugin}]
train:
  num_epochs: 2
  train_data_loader:
    dataset_id: train
    requires_supp: false
    collate_fn: distillens.collate
    sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}
    kwargs: {batch_size: 4}
  val_data_loader: {}
  teacher:
    forward_proc: distillens.forward
    forward_hook: {output: [transformer.h.1, transformer.h.3]}
    requires_grad: false
  student:
    forward_proc: distillens.forward
    forward_hook: {output: [transformer.h.0, transformer.h.1]}
  optimizer:
    key: distillens.adamw
    filters_params: false
    kwargs: {lr: 1.0e-2, weight_decay: 0.1}
    max_grad_norm: 1.0
  scheduler: {key: distillens.linear, kwargs: {num_steps: 4}, scheduling_step: 1}
  criterion:
    key: CRITERION
    kwargs:
      sub_terms:
        hidden:
          criterion: {key: TERM, kwargs: {layers: {student: [1, 2], teacher: [2, 4]}}}
          weight: 0.5
    func2extract_model_loss: distillens.no_model_loss
  pre_epoch_process: distillens.pre_epoch
  post_forward_process: distillens.post_forward
"""


def box_recipe(folder, term="distillens.hidden_mse", criterion="WeightedSumLoss", **kwargs):
    path = folder / "box.yaml"
    path.write_text(BOX.replace("CRITERION", criterion).replace("TERM", term), encoding="utf-8")
    recipe = load_box_recipe(path)
    recipe["train"]["criterion"]["kwargs"]["sub_terms"]["hidden"]["criterion"]["kwargs"].update(
        kwargs
    )
    return recipe


def hidden_states(model, batch, layers):
    """Each layer's own output, from hooks of this test."""
    seen = {}
    handles = [
        model.transformer.h[layer - 1].register_forward_hook(
            lambda module, args, output, layer=layer: seen.update({layer: output})
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return [seen[layer] for layer in layers]


def rows_of(box, batch, targets):
    """(student, teacher) float64 rows of each pair, where the next token is supervised."""
    mask = targets["labels"][:, 1:] != -100
    students = hidden_states(box.student_model, batch, [a for a, _ in PAIRS])
    teachers = hidden_states(box.teacher_model, batch, [b for _, b in PAIRS])
    return [
        (s[:, :-1][mask].double(), t[:, :-1][mask].double())
        for s, t in zip(students, teachers, strict=True)
    ]
