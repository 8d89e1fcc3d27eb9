"""Tiny recipes whose lens reads the student through trained maps and the teacher's readout."""

from pathlib import Path

import torch
from run_process import change
from safetensors.torch import load_file
from tiny_run import ASSETS, save_tiny_model, tiny_recipe
from transformers import GPT2LMHeadModel

from distillens_plugin.losses.fisher_metric import save_fisher

TERMS = "train.criterion.kwargs.sub_terms"
LENS = f"{TERMS}.lens.criterion.kwargs"
# Not the last one, which has no Fisher matrix.
LAYERS = {"student": [1, 2], "teacher": [2, 3]}
SIZES = {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 2, "n_positions": 256}
SIZES["initializer_range"] = 0.1
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SAMPLER = "{class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}"
CUT = {"max_length": 128, "max_prompt_length": 80, "long_prompts": "cut"}
# Plain gradient descent: its steps show a gradient's length, which Adam's hide. Half are clipped.
DESCENT = {"key": "SGD", "kwargs": {"lr": 1.0, "momentum": 0.9}, "max_grad_norm": 0.25}


def readout_recipe(folder: Path, kind: str = "own", *, batch_size: int = 2, windows: int = 2):
    """Two epochs of three steps without dropout, each of the same eight rows on any processes.

    Args:
        kind: `own` maps; `shared` with a hidden_mse in a Fisher metric; `alone`, no other term, and
            a head that is not tied, so that nothing trains it.
        batch_size, windows: rows of a batch, and batches of a step on each process.
    """
    sure_teacher(folder / "teacher")
    path = tiny_recipe(folder)
    config = {**SIZES, **NO_DROPOUT}
    lens = {"layers": LAYERS, "norm": "final", "readout": "teacher"}
    if kind == "shared":
        lens["projection_of"] = "mse"
        metric = {"metric": "fisher", "metric_file": str(fisher_file(folder))}
        criterion = {"key": "distillens.hidden_mse", "kwargs": {"layers": LAYERS, **metric}}
        change(path, f"{TERMS}.mse", {"criterion": criterion, "weight": 0.5})
    if kind == "alone":
        config["tie_word_embeddings"] = False
        criterion = {"key": "DistillLensLoss", "kwargs": {}}
        change(path, TERMS, {"lens": {"criterion": criterion, "weight": 1.0}})
    for key, value in {
        LENS: lens,
        "models.student_model.init.config": config,
        "train.num_epochs": 2,
        "train.train_data_loader.kwargs.batch_size": batch_size,
        "train.optimizer": {**DESCENT, "grad_accum_step": windows},
        # No row is left out: ranks would fill the last step with the first rows once more.
        "datasets.train": {**CUT, "path": str(ASSETS / "train.jsonl"), "num_rows": 24},
        "datasets.validation": {**CUT, "path": str(ASSETS / "valid.jsonl"), "num_rows": 5},
        "validation_terms": True,
        "samples.num_rows": 0,
        "report": False,
    }.items():
        change(path, key, value)
    change(path, "train.train_data_loader.sampler", "PLACE")
    text = path.read_text(encoding="utf-8")
    assert "sampler: PLACE" in text
    path.write_text(text.replace("PLACE", SAMPLER), encoding="utf-8")
    return path


def sure_teacher(folder: Path) -> None:
    """The tiny teacher with weights drawn wide: all that a narrow one says is that nothing is so
    much likelier than the rest, and a lens has hardly a gradient."""
    save_tiny_model(folder)
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)


def fisher_file(folder: Path) -> Path:
    """Matrices of the tiny teacher's layers below the last, far from the identity."""
    generator = torch.Generator().manual_seed(3)
    factors = [torch.randn(32, 32, generator=generator) for _ in range(3)]
    matrices = {layer: factor @ factor.T for layer, factor in enumerate(factors, start=1)}
    save_fisher(folder / "fisher.safetensors", matrices, num_layers=4, notes={})
    return folder / "fisher.safetensors"


def maps_of(model_folder: Path) -> dict:
    """What the loss trained beside the model in `best` or `last`."""
    return load_file(model_folder / "loss" / "parameters.safetensors")
