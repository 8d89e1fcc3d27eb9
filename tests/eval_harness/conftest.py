"""Small models and benchmarks, made here: nothing is downloaded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def _save(model_class: str, config: object, folder: Path) -> Path:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(REPO / "recipes/quickstart/tokenizer")
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        # A louder end token, so that some answers stop and some reach the limit.
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with heads of 32, the smallest that vLLM takes on a CPU."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
    )
    return _save("LlamaForCausalLM", config, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers: absolute positions, a tied head."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=2048,
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save("GPT2LMHeadModel", config, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def chat_model(small_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama with ChatML's signs as tokens of their own."""
    from small_tokenizers import CHATML, SIGNS
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("chat-llama")
    tokenizer = AutoTokenizer.from_pretrained(small_llama)
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(small_llama)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_rows() -> list[dict]:
    """48 rows of gsm8k, with instructions of many lengths."""
    lines = (REPO / "eval_harness/benchmarks/data/gsm8k.jsonl").read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:48]]


@pytest.fixture
def small_benchmark(tmp_path: Path, small_rows: list[dict]) -> Path:
    """A folder for --include_path with the task `small`."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in small_rows)
    (folder / "small.jsonl").write_text(text, encoding="utf-8")
    (folder / "small.yaml").write_text("task: small\npath: small.jsonl\n", encoding="utf-8")
    return folder


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m eval_harness ARGS` in a process of its own, offline."""

    def call(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "eval_harness", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            env={**os.environ, **environment},
        )

    return call
