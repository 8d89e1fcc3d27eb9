"""Small models, rows and transformers Trainers with the lens, and the loss written out again."""

from pathlib import Path
from typing import Any

import torch
from small_models import small_model, token_batch
from torch import Tensor, nn
from transformers import TrainingArguments

from distillens_plugin.integrations.transformers import DistillLensArguments, DistillLensTrainer

TERMS: dict[str, Any] = {"layers": "1,2:1,3", "kd": "fkl", "cross_entropy": 0.5}


def pair(family: str = "llama", **more: Any) -> tuple[Any, Any]:
    """A student of 3 layers and a teacher of 4."""
    return small_model(family, **more), small_model(family, layers=4, width=40, seed=1, **more)


def rows(num_rows: int = 8, *, tokens: int = 9, seed: int = 0) -> list[dict[str, Tensor]]:
    """Rows of equal length whose numbers of supervised tokens differ."""
    made = []
    for place, ids in enumerate(token_batch(batch=num_rows, tokens=tokens, seed=seed)):
        prompt = 1 + (3 * place) % (tokens - 2)
        labels = torch.where(torch.arange(tokens) < prompt, -100, ids)
        made.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return made


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """One step of plain gradient descent after another, on the CPU, in the order of the rows."""
    settings: dict[str, Any] = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
    }
    return TrainingArguments(str(folder / "out"), **{**settings, **changes})


def lens_trainer(
    folder: Path,
    *,
    models: tuple[Any, Any] | None = None,
    terms: dict[str, Any] | None = None,
    trainer: type = DistillLensTrainer,
    data: list[dict[str, Tensor]] | None = None,
    eval_data: list[dict[str, Tensor]] | None = None,
    given: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """A trainer on small models.

    Args:
        terms: fields of DistillLensArguments; None is TERMS.
        given: further arguments of the trainer.
        changes: to the TrainingArguments.
    """
    student, teacher = models or pair()
    return trainer(
        model=student,
        teacher_model=teacher,
        distillens=DistillLensArguments(**(TERMS if terms is None else terms)),
        args=arguments(folder, **changes),
        train_dataset=data or rows(),
        eval_dataset=eval_data,
        **(given or {}),
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def widest_gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def expected(student: nn.Module, teacher: nn.Module, batch: list[dict[str, Tensor]]) -> dict:
    """The terms of TERMS summed over a batch's supervised tokens, in float64: llama, no norm."""
    sums: dict[str, Any] = {"lens/1-1": 0.0, "lens/2-3": 0.0, "kd": 0.0, "cross_entropy": 0.0}
    for row in batch:
        ids, targets = row["input_ids"][None], row["labels"][1:]
        keep = targets != -100
        outputs = [m.double()(ids, output_hidden_states=True) for m in (student, teacher)]
        heads = [m.lm_head.weight for m in (student, teacher)]
        for a, b in ((1, 1), (2, 3)):
            q, p = (
                (out.hidden_states[layer][0, :-1][keep] @ head.T).softmax(-1)
                for out, layer, head in zip(outputs, (a, b), heads, strict=True)
            )
            m = (p + q) / 2
            parts = (p * (p / m).log()).sum() + (q * (q / m).log()).sum()
            sums[f"lens/{a}-{b}"] += parts / 2
        q, p = (out.logits[0, :-1][keep].log_softmax(-1) for out in outputs)
        sums["kd"] += (p.exp() * (p - q)).sum()
        sums["cross_entropy"] -= q.gather(1, targets[keep][:, None]).sum()
    sums["lens"] = (sums["lens/1-1"] + sums["lens/2-3"]) / 2
    sums["loss"] = sums["lens"] + sums["kd"] + 0.5 * sums["cross_entropy"]
    return sums


def supervised(batch: list[dict[str, Tensor]]) -> int:
    return sum(int((row["labels"][1:] != -100).sum()) for row in batch)


def trained_twice(
    folder: Path,
    batch: int,
    accumulation: int,
    *,
    family: str = "llama",
    models: tuple[Any, Any] | None = None,
    **changes: Any,
) -> tuple[Any, dict[str, Any]]:
    """A trainer after two steps at a rate of 1; its weights, the log of both, its evaluation."""
    models = models or pair(family)
    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    trainer = lens_trainer(
        folder,
        models=models,
        eval_data=rows(6, seed=5),
        logging_steps=2,
        learning_rate=1.0,
        per_device_eval_batch_size=2,
        **{**settings, **changes},
    )
    trainer.train()
    metrics = trainer.evaluate()
    (line,) = [log for log in trainer.state.log_history if "learning_rate" in log]
    return trainer, {"weights": weights(trainer.model), "log": line, "metrics": metrics}
