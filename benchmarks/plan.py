"""`distillens plan` beside what `--dry-run` measures on this machine's CPU.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--pairs gpt2 llama qwen2_lora] [--json]

Each pair has random weights and rows of one length. `distillens run --dry-run` prints the peak of
the resident memory, most of which for a small model is Python with its libraries: the same recipe
with a tiny pair measures that, and is taken off on both sides. Nothing is written outside a
temporary folder.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent
# glibc keeps what is freed for itself, up to 32 MB a block, so that resident memory is what was in
# use at different times. With a fixed threshold it gives back larger blocks at once.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}
TOKENIZER = REPO / "recipes" / "quickstart" / "tokenizer"


def _llama(layers: int, width: int, vocab: int = 32000, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 128),
        "max_position_embeddings": 512,
        "vocab_size": vocab,
        **more,
    }


def _gpt2(layers: int, width: int) -> dict[str, Any]:
    sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "vocab_size": 50257}
    return {"model_type": "gpt2", **sizes}


# Teacher, student, keys of the student, batch, length of a row, --set.
PAIRS: dict[str, dict[str, Any]] = {
    "tiny": {"teacher": _llama(2, 64, 2048), "student": _llama(2, 64, 2048), "batch": (2, 64)},
    "small": {"teacher": _llama(6, 512, 8192), "student": _llama(4, 512, 8192), "batch": (8, 256)},
    "gpt2": {"teacher": _gpt2(12, 1024), "student": _gpt2(12, 768), "batch": (2, 256)},
    "llama": {
        "teacher": _llama(10, 1024),
        "student": {**_llama(8, 768), "tie_word_embeddings": True},
        "batch": (4, 256),
        "more": {"gradient_checkpointing": True},
    },
    "qwen2_lora": {
        "teacher": {**_llama(6, 896), "model_type": "qwen2", "vocab_size": 151936},
        "student": {**_llama(8, 640), "model_type": "qwen2", "vocab_size": 151936},
        "batch": (2, 256),
        "more": {"lora": {"r": 8}},
    },
}


def write_pair(folder: Path, name: str) -> Path:
    """The recipe of a pair, with its teacher and data beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillens_plugin.models.tokenizers import load_tokenizer

    pair = PAIRS[name]
    rows, length = pair["batch"]
    tokenizer = load_tokenizer(str(TOKENIZER))
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    teacher = {**pair["teacher"], **ids}
    torch.manual_seed(1)
    config = AutoConfig.for_model(teacher.pop("model_type"), **teacher)
    # In another type than it is loaded in: weights that are only mapped from a file leave the
    # resident memory whenever the machine wants room.
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    # Longer than a row, so that every row is cut to the same length.
    row = {"instruction": "Count.", "input": "", "output": " one two three" * length}
    text = "".join(json.dumps({**row, "id": str(i)}) + "\n" for i in range(rows))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    terms: dict[str, Any] = {
        "kd": {"criterion": {"key": "distillens.logits_kd", "kwargs": {"divergence": "rkl"}}},
        "lens": {"criterion": {"key": "DistillLensLoss", "kwargs": {"layers": {"auto": 2}}}},
    }
    if name == "tiny":
        terms["lens"]["criterion"]["kwargs"]["layers"] = {"student": [1], "teacher": [1]}
    recipe = {
        "models": {
            "teacher_model": {"name_or_path": "./teacher"},
            "student_model": {
                "init": {"config": {**pair["student"], **ids}},
                **pair.get("more", {}),
            },
        },
        "datasets": {
            "train": {
                "path": "./rows.jsonl",
                "template": "question",
                "max_length": length,
                "max_prompt_length": length - 8,
            }
        },
        "train": {
            "num_epochs": 1,
            "train_data_loader": {"kwargs": {"batch_size": rows}},
            "optimizer": {"kwargs": {"lr": 1e-4}},
            "criterion": {"kwargs": {"sub_terms": terms}},
        },
        "output_dir": "./run",
        "threads": 1,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def measured_bytes(recipe: Path) -> float:
    """Peak resident memory of a dry run."""
    done = subprocess.run(
        [sys.executable, "-m", "distillens_plugin.run", str(recipe), "--dry-run"],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **_GIVE_BACK},
    )
    found = re.search(r"^peak memory: ([\d,]+) MiB", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        raise SystemExit(f"{recipe}: the dry run failed: {done.stderr[-2000:]}")
    return float(found[1].replace(",", "")) * 2**20


def computed_bytes(recipe: Path) -> float:
    """The peak of the first step on one CPU, as `distillens plan` computes it."""
    from distillens_plugin.costs.lengths import recipe_lengths
    from distillens_plugin.costs.models import recipe_architectures
    from distillens_plugin.costs.reading import run_of
    from distillens_plugin.costs.shardings import memory
    from distillens_plugin.models.hub import Hub
    from distillens_plugin.recipe.loading import load_recipe

    loaded = load_recipe(recipe)
    student, teacher = recipe_architectures(loaded, Hub())
    lengths = recipe_lengths(loaded, rows=None, row_tokens=None)
    run = run_of(loaded, student, teacher, lengths, "cpu")
    return memory(run, "one device", "replicated", 1, first_step=True).peak


def main() -> None:
    """Prints a line for each pair, as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS)[2:])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    base = figures("tiny")
    if not arguments.json:
        print(f"libraries and a tiny pair: {base[0]:,.0f} MiB; beyond that:", flush=True)
    for name in arguments.pairs:
        measured, computed = (
            found - of_tiny for found, of_tiny in zip(figures(name), base, strict=True)
        )
        if arguments.json:
            print(json.dumps({"pair": name, "measured_mib": measured, "computed_mib": computed}))
        else:
            print(
                f"{name:<12} measured {measured:7,.0f} MiB   computed {computed:7,.0f} MiB   "
                f"{computed / measured - 1:+.0%}",
                flush=True,
            )


def figures(name: str) -> tuple[float, float]:
    """MiB of a pair's first step, measured and computed."""
    with (
        tempfile.TemporaryDirectory(prefix="distillens-plan-") as folder,
        # In a process of its own: on Linux a child's peak begins with that of its parent, so this
        # one must stay small.
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        recipe, computed = pool.submit(_written, Path(folder), name).result()
        return measured_bytes(recipe) / 2**20, computed / 2**20


def _written(folder: Path, name: str) -> tuple[Path, float]:
    recipe = write_pair(folder, name)
    return recipe, computed_bytes(recipe)


if __name__ == "__main__":
    main()
