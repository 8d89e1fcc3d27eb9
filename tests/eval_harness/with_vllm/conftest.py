"""One vLLM engine for the session: `pytest tests/eval_harness/with_vllm`, where vLLM is usable."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In this process: the tests look into the engine, and its start must not be waited for twice.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import pytest

if TYPE_CHECKING:
    from eval_harness.backends.vllm import VllmBackend

# Without a size for its KV cache, vLLM does not start on a CPU.
ENGINE = {"dtype": "float32", "kv_cache_memory_bytes": 64 * 2**20, "enforce_eager": True}
MAX_LENGTH = 256


@pytest.fixture(scope="session")
def usable_vllm() -> None:
    """Skips where there is no vLLM; in CI these tests run in an environment that must have it."""
    from eval_harness.backends.vllm_arguments import check_usable
    from eval_harness.errors import DistillensError

    try:
        check_usable()
    except DistillensError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have a usable vLLM here: {error}")
        pytest.skip(f"needs a usable vLLM (.ci/make_vllm_env makes an environment): {error}")


@pytest.fixture(scope="session")
def engine_arguments() -> dict[str, Any]:
    """For `VllmBackend` on a CPU."""
    return dict(ENGINE)


@pytest.fixture(scope="session")
def loud_llama(small_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama in a folder whose settings and tokenizer say other things than the protocol.

    Its tokenizer ends answers at the token that the model gives first after (5, 6, 7).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("loud") / "model"
    shutil.copytree(small_llama, folder)
    settings = {"temperature": 9.0, "do_sample": True, "min_p": 0.9, "repetition_penalty": 5.0}
    settings |= {"top_k": 2, "top_p": 0.1, "max_new_tokens": 1, "max_length": 6}
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 0}))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[5, 6, 7]])).logits
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(logits[0, -1].argmax()))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_backend(usable_vllm: None, small_llama: Path, loud_llama: Path) -> "Iterator[VllmBackend]":
    """The small Llama in vLLM, with the n-gram processor; 256 positions of its 512."""
    from eval_harness.backends.vllm import VllmBackend
    from eval_harness.shared.model_folder.identity import read_model

    facts = read_model(str(loud_llama), tokenizer=str(small_llama), max_length=MAX_LENGTH)
    backend = VllmBackend(facts, max_length=MAX_LENGTH, no_repeat_ngrams=True, engine=dict(ENGINE))
    yield backend
    backend.close()
