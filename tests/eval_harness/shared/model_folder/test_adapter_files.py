"""Adapters' folders that are broken or belong to another model."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from spoilt_files import LFS, edit, written
from transformers import AutoModelForCausalLM

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import read_model


def adapter_of(folder: Path, target: Path, *, width: int | None = None) -> Path:
    peft = pytest.importorskip("peft", reason="peft is an extra")
    model = AutoModelForCausalLM.from_pretrained(folder)
    if width is not None:
        settings = {**model.config.to_dict(), "hidden_size": width, "head_dim": 32}
        model = AutoModelForCausalLM.from_config(type(model.config).from_dict(settings))
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, lora).save_pretrained(target)
    return target


def renamed(path: Path) -> None:
    held = load_file(path / "adapter_model.safetensors")
    old = sorted(held)[0]
    held[old.replace("layers.0", "layers.9")] = held.pop(old)
    save_file(held, path / "adapter_model.safetensors")


def fewer(path: Path) -> None:
    held = load_file(path / "adapter_model.safetensors")
    held.pop(sorted(held)[0])
    save_file(held, path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: None, None),
        (renamed, r"adapter_model\.safetensors: the model has no place for base_model\.model\.mod"),
        (fewer, r"adapter_model\.safetensors: 1 tensors of adapter_config\.json are missing"),
        (
            lambda path: edit(path / "adapter_config.json", r=8),
            r"has shape \[4, 64\], expected \[8",
        ),
        (
            lambda path: edit(path / "adapter_config.json", r=10**9),
            "r = 1000000000, expected a rank",
        ),
        (
            lambda path: edit(path / "adapter_config.json", target_modules="(\\w+\\.?)+#"),
            r"adapter_config\.json\.target_modules: found .*takes more than 1 s",
        ),
        (
            lambda path: edit(path / "adapter_config.json", rank_pattern={"(\\w+\\.?)+#": 2}),
            r"adapter_config\.json\.rank_pattern: found .*takes more than 1 s",
        ),
        (
            lambda path: edit(path / "adapter_config.json", target_modules=["nowhere"]),
            r"adapter_config\.json: peft cannot make this adapter for LlamaForCausalLM",
        ),
        (lambda path: edit(path / "adapter_config.json", peft_type=7), "peft_type = 7, expected a"),
        (written("adapter_config.json", b"[]"), r"adapter_config\.json: found a JSON list"),
        (written("adapter_model.safetensors", LFS), r"adapter_model\.safetensors: found a git-lfs"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(small_llama, tmp_path, change, message):
    adapter = adapter_of(small_llama, tmp_path / "adapter")
    change(adapter)
    if message is None:
        read_model(str(small_llama), adapter=str(adapter))
        return
    with pytest.raises(DistillensError, match=message) as caught:
        read_model(str(small_llama), adapter=str(adapter))
    assert "\n" not in str(caught.value)


def test_an_adapter_of_a_wider_model_is_refused(small_llama, tmp_path):
    adapter = adapter_of(small_llama, tmp_path / "adapter", width=128)
    with pytest.raises(DistillensError, match=r"has shape \[4, 128\], expected \[4, 64\]"):
        read_model(str(small_llama), adapter=str(adapter))
