"""Students of one architecture, and adapters of one base, made from a small Llama's files."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def student(model: Path, folder: Path, seed: int) -> Path:
    """The model with other weights: all of them moved, so that a layer that stays old shows."""
    generator = torch.Generator().manual_seed(seed)
    shutil.copytree(model, folder)
    weights = {
        name: weight + 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
        for name, weight in load_file(model / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def adapter(model: Path, folder: Path, *, seed: int, rank: int) -> Path:
    """A LoRA adapter with random weights, as peft saves it."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in load_file(model / "model.safetensors").items()}
    weights = {}
    for layer in range(2):
        for name in ("q_proj", "v_proj"):
            module = f"model.layers.{layer}.self_attn.{name}"
            rows, columns = shapes[f"{module}.weight"]
            down = torch.randn(rank, columns, generator=generator) * 0.1
            up = torch.randn(rows, rank, generator=generator) * 0.1
            weights[f"base_model.model.{module}.lora_A.weight"] = down
            weights[f"base_model.model.{module}.lora_B.weight"] = up
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 8 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": str(model),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
