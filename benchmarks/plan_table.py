"""The table of docs/scale.md: what `distillens plan` computes for the paper's pairs, and larger.

    python benchmarks/plan_table.py

Configs are those of tests/configs; Llama 3.1's sizes are typed here from its published config.json.
Each recipe as it is shipped, with one batch a step.
"""

import json
import tempfile
from pathlib import Path

from distillens_plugin.costs.plan import Machine, Plan, plan_recipe
from distillens_plugin.costs.shardings import Placement, Sharding
from distillens_plugin.recipe.loading import load_recipe

REPO = Path(__file__).resolve().parent.parent
CONFIGS = REPO / "tests" / "configs"
# Recipe, teacher, student; the last is Llama 3.1 in TinyLlama's recipe.
PAIRS = {
    "GPT-2 1.5B to 120M": ("gpt2", "teacher-gpt2-1.5B", "gpt2"),
    "GPT-2 1.5B to 340M": ("gpt2_medium", "teacher-gpt2-1.5B", "gpt2-medium"),
    "Llama 7B to TinyLlama 1.1B": ("tinyllama", "Llama-2-7b-hf", "TinyLlama_v1.1"),
    "Qwen2.5 3B to 1.5B, LoRA": ("qwen2.5", "Qwen2.5-3B", "Qwen2.5-1.5B"),
    "Llama 3.1 70B to 8B": ("tinyllama", "llama-3.1-70b", "llama-3.1-8b"),
}
_LLAMA = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072}
LLAMA = {
    "llama-3.1-8b": {
        **_LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "llama-3.1-70b": {
        **_LLAMA,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
WAYS: list[tuple[int, Sharding, Placement]] = [
    (1, "one device", "replicated"),
    (1, "one device", "states only"),
    (8, "ddp", "replicated"),
    (8, "zero2", "states only"),
    (8, "fsdp2", "sharded"),
    (8, "fsdp2", "states only"),
]

_TEACHER = {"replicated": "whole teacher", "sharded": "shared teacher", "states only": "states"}


def planned(pair: str, devices: int, folder: Path) -> Plan:
    """The plan of a pair on devices of 80 GB."""
    recipe, *names = PAIRS[pair]
    places = []
    for name in names:
        place = CONFIGS / name
        if name in LLAMA:
            place = folder / name
            place.mkdir(exist_ok=True)
            (place / "config.json").write_text(json.dumps(LLAMA[name]), encoding="utf-8")
        places.append(place)
    overrides = [
        f"models.teacher_model.name_or_path={places[0]}",
        f"models.student_model.name_or_path={places[1]}",
        "train.optimizer.grad_accum_step=1",
    ]
    machine = Machine(
        devices=devices,
        nodes=1,
        memory=80e9,
        reserve=2e9,
        device="cuda",
        tflops=None,
        mfu=0.4,
    )
    return plan_recipe(load_recipe(REPO / "recipes" / f"{recipe}.yaml", overrides), machine)


def table() -> list[str]:
    """Lines of Markdown: the peak of a device in GB, bold where 80 GB are not enough."""
    head = [
        f"{count} x {sharding}, {_TEACHER[place]}".replace("1 x ", "")
        for count, sharding, place in WAYS
    ]
    lines = [f"| pair | {' | '.join(head)} | TFLOPs a row |", "| --- " * (len(WAYS) + 2) + "|"]
    with tempfile.TemporaryDirectory(prefix="distillens-plan-") as name:
        for pair in PAIRS:
            plans = {count: planned(pair, count, Path(name)) for count in (1, 8)}
            cells = []
            for count, *way in WAYS:
                (found,) = [c for c in plans[count].choices if [c.sharding, c.teacher] == way]
                number = f"{found.memory.peak / 1e9:.1f}"
                cells.append(number if found.fits else f"**{number}**")
            flops = plans[1].flops.total / 1e12
            lines.append(f"| {pair} | {' | '.join(cells)} | {flops:.3g} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
