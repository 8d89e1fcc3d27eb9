"""Each shipped recipe takes a real step, on small random models in place of the real weights."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_run import ASSETS, REPO
from transformers import AutoConfig, AutoModelForCausalLM

from distillens_plugin.models.tokenizers import load_tokenizer

CHAT = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}<|assistant|>\n"

# Family and depth of teacher and student; the recipes' own layer numbers must fit them.
MODELS = {
    "gpt2": ("gpt2", 48, 12),
    "gpt2_medium": ("gpt2", 48, 24),
    "tinyllama": ("llama", 32, 22),
    "qwen2.5": ("qwen2", 36, 28),
    "smollm2": ("llama", 30, None),
    "quickstart": ("llama", 4, None),
    "quickstart_teacher": (None, None, None),
    "quickstart_three_pairs": ("llama", 4, None),
}


def test_no_recipe_is_left_out():
    assert {path.stem for path in (REPO / "recipes").glob("*.yaml")} == set(MODELS)


def save_model(folder, kind, layers):
    tokenizer = load_tokenizer(str(ASSETS / "tokenizer"))
    tokenizer.chat_template = CHAT
    torch.manual_seed(layers)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=16,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({} if kind == "gpt2" else {"intermediate_size": 32, "num_key_value_heads": 2}),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_recipe_takes_a_step(tmp_path, name):
    kind, teacher_layers, student_layers = MODELS[name]
    changes = [
        "train.num_epochs=null",
        "train.num_steps=1",
        "train.train_data_loader.kwargs.batch_size=2",
        f"datasets.train.path={ASSETS / 'train.jsonl'}",
        "datasets.train.num_rows=16",
        f"datasets.validation.path={ASSETS / 'valid.jsonl'}",
        "datasets.validation.num_rows=3",
        "samples.num_rows=1",
        "samples.max_new_tokens=4",
        "report.page=false",
        "log_every=1",
        f"output_dir={tmp_path / 'out'}",
    ]
    if "quickstart" not in name and name != "smollm2":
        for part in ("train", "validation"):
            changes += [f"datasets.{part}.data_files=null", f"datasets.{part}.split=null"]
            # The quickstart's small vocabulary makes long prompts.
            changes += [f"datasets.{part}.max_length=900", f"datasets.{part}.max_prompt_length=800"]
    if teacher_layers is not None:
        teacher = save_model(tmp_path / "teacher", kind, teacher_layers)
        changes.append(f"models.teacher_model.name_or_path={teacher}")
    if student_layers is not None:
        student = save_model(tmp_path / "student", kind, student_layers)
        changes.append(f"models.student_model.name_or_path={student}")
    command = [sys.executable, "-m", "distillens_plugin.run", f"recipes/{name}.yaml"]
    for change in changes:
        command += ["--set", change]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=REPO, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    step = next(record for record in records if "loss" in record)
    pairs = [key for key in step if key.startswith("lens/")]
    numbers = {"quickstart": 1, "quickstart_three_pairs": 3, "quickstart_teacher": 0}
    assert len(pairs) == numbers.get(name, 4 if name in ("qwen2.5", "smollm2") else 5)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    scored_by_rouge = name in ("gpt2", "gpt2_medium", "tinyllama", "qwen2.5")
    assert ("rougeL" in summary["validation"][0]) == scored_by_rouge
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "best")
