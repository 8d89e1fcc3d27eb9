"""A tiny teacher and a tiny recipe on the quickstart's data: a whole run in seconds."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

from distillens_plugin.models.tokenizers import load_tokenizer

REPO = Path(__file__).resolve().parents[2]
ASSETS = REPO / "recipes" / "quickstart"


def save_tiny_model(folder: Path, *, layers: int = 4, seed: int = 1) -> Path:
    """A small random GPT-2 with the quickstart's tokenizer."""
    tokenizer = load_tokenizer(str(ASSETS / "tokenizer"))
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=layers,
        n_embd=32,
        n_head=2,
        n_positions=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """recipe.yaml in `folder`: a 4-layer teacher, a 2-layer student, 24 rows, 3 steps an epoch.

    Args:
        changes: top-level sections to replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    teacher = folder / "teacher"
    if not teacher.exists():
        save_tiny_model(teacher)
    data = {"path": str(ASSETS / "train.jsonl"), "num_rows": 24, "max_length": 256}
    data["max_prompt_length"] = 200
    recipe = {
        "dependencies": [{"name": "distillens_plugin"}],
        "models": {
            "teacher_model": {"name_or_path": str(teacher)},
            "student_model": {
                "init": {
                    "config": {
                        "model_type": "gpt2",
                        "n_layer": 2,
                        "n_embd": 24,
                        "n_head": 2,
                        "n_positions": 256,
                    }
                }
            },
        },
        "datasets": {
            "train": data,
            "validation": {"path": str(ASSETS / "valid.jsonl"), "num_rows": 8},
        },
        "train": {
            "num_epochs": 1,
            "train_data_loader": {"kwargs": {"batch_size": 8}},
            "optimizer": {
                "key": "AdamW",
                "kwargs": {"lr": 2.0e-3, "weight_decay": 0.01},
                "max_grad_norm": 1.0,
            },
            "scheduler": {"key": "cosine", "kwargs": {"min_lr": 1.0e-7}},
            "criterion": {
                "key": "distillens.weighted_sum",
                "kwargs": {
                    "sub_terms": {
                        "kd": {
                            "criterion": {
                                "key": "distillens.logits_kd",
                                "kwargs": {"divergence": "fkl"},
                            },
                            "weight": 1.0,
                        },
                        "lens": {
                            "criterion": {
                                "key": "DistillLensLoss",
                                "kwargs": {
                                    "layers": {"student": [1, 2], "teacher": [2, 4]},
                                    "norm": "final",
                                },
                            },
                            "weight": 1.0,
                        },
                    }
                },
            },
        },
        "log_every": 1,
        "samples": {"num_rows": 1, "max_new_tokens": 8},
        # Drawing takes longer than all the rest; tests/reports has the pages.
        "report": {"page": False},
        "output_dir": str(folder / "out"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, **changes}, sort_keys=False), encoding="utf-8")
    return path
