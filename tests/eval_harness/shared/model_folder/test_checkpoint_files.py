"""Broken, mixed-up and hostile model folders: one line each, before anything is built."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from spoilt_files import LFS, edit, written
from transformers import AutoModelForCausalLM

from eval_harness.backends.transformers import TransformersBackend
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.identity import read_model


def config(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **fields)


def generation(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "generation_config.json").write_text(text) and None


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def longer(folder: Path) -> None:
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"\0" * 8)


def gone(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        held = load_file(path)
        change(held)
        save_file(held, path, metadata={"format": "pt"})

    return apply


def shards(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="200KB")
        change(folder)

    return apply


def index(folder: Path, name: str, shard: Any) -> None:
    path = folder / "model.safetensors.index.json"
    placed = json.loads(path.read_text())["weight_map"]
    edit(path, weight_map={**placed, name: shard})


NORM = "model.norm.weight"
HEADER = (2).to_bytes(8, "little")
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "lfs weights": (written("model.safetensors", LFS), r"model\.safetensors: found a git-lfs poi"),
    "lfs config": (written("config.json", LFS), r"config\.json: found a git-lfs pointer.*lfs pull"),
    "lfs tokenizer": (written("tokenizer.json", LFS), r"tokenizer\.json: found a git-lfs pointer"),
    "cut": (cut, r"model\.safetensors: the file is truncated: its tensors take \d+ bytes"),
    "longer": (longer, r"model\.safetensors: the file is longer than its header says"),
    "empty": (written("model.safetensors", b""), r"model\.safetensors: the file is empty"),
    "no header": (written("model.safetensors", b"\0" * 64), r"model\.safetensors: not a safe"),
    "header no json": (written("model.safetensors", HEADER + b"xx"), "its header is not JSON"),
    "header a list": (written("model.safetensors", HEADER + b"[]"), "is not a JSON object"),
    "pickle": (
        lambda f: gone("model.safetensors")(f) or written("pytorch_model.bin", b"text")(f),
        r"pytorch_model\.bin: not written by torch\.save",
    ),
    "no weights": (gone("model.safetensors"), r"no weights, expected model\.safetensors"),
    "no config": (gone("config.json"), r"config\.json: cannot be read \(No such file"),
    "shape": (
        tensors(lambda held: held.update({NORM: torch.ones(63)})),
        r"model\.safetensors: model\.norm\.weight has shape \[63\], expected \[64\]",
    ),
    "vocabulary": (
        config(vocab_size=2100),
        r"has shape \[2048, 64\].*says vocab_size = 2100, but the weights have 2048 ids",
    ),
    "width": (config(hidden_size=128), r"has shape .*weights belong to different"),
    "shard gone": (
        shards(lambda f: next(iter(sorted(f.glob("model-0*")))).unlink()),
        r"model-00001-of-\d+\.safetensors: this shard of the weights is missing",
    ),
    "shard outside": (
        shards(lambda f: index(f, NORM, "../model.safetensors")),
        r"weight_map\.model\.norm\.weight = '\.\./model\.safetensors', expected a file name",
    ),
    "shard no name": (shards(lambda f: index(f, NORM, 7)), r"index\.json: weight_map\..* = 7"),
    "shard lacks": (
        shards(lambda f: index(f, "more", next(f.glob("model-00001*")).name)),
        r"no tensor 'more', but model\.safetensors\.index\.json says it is here",
    ),
    "weights elsewhere": (config(transformers_weights="../x.bin"), "transformers_weights = "),
    "layers": (config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000, expected at most"),
    "no layers": (config(num_hidden_layers=-1), "num_hidden_layers = -1, expected at least 0"),
    "heads": (config(num_attention_heads=10**12), "num_attention_heads = 1000000000000"),
    "digits": (config(rope_theta=10**400), r"rope_theta = 1000000\S+ \(401 characters\), expected"),
    "nested": (config(text_config={"num_hidden_layers": 10**9}), r"text_config\.num_hidden_layers"),
    "list": (written("config.json", b"[]"), r"config\.json: found a JSON list, expected an object"),
    "deep": (written("config.json", b'{"a":' * 90_000), "nested too deeply"),
    "syntax": (written("config.json", b'{"a": 1,\n"b" 2}'), r"config\.json:2:5: not JSON"),
    "utf-8": (written("config.json", b'{"a": "\xff"}'), "byte 7 is not UTF-8"),
    "encoder": (
        config(architectures=["BertForMaskedLM"]),
        r"architectures = \['BertForMaskedLM'\], expected a causal language model",
    ),
    "not causal": (
        config(model_type="vit"),
        "no causal language model can be built from this 'vit",
    ),
    "unknown type": (
        config(model_type="llamma"),
        r"config\.json: the configuration cannot be read",
    ),
    "quantised": (config(quantization_config=[1]), r"quantization_config = \[1\], expected an obj"),
    "eos text": (
        generation('{"eos_token_id": "x"}'),
        r"generation_config\.json: eos_token_id = 'x'",
    ),
    "eos part": (generation('{"eos_token_id": 1.5}'), "eos_token_id = 1.5, expected a token id"),
    "eos null": (generation('{"eos_token_id": [null]}'), r"eos_token_id = \[None\], expected"),
    "eos digits": (generation('{"eos_token_id": 1%s}' % ("0" * 400)), "fits in 64 bits"),
    "generation list": (generation("[1]"), r"generation_config\.json: found a JSON list"),
    "token list": (
        lambda f: edit(f / "tokenizer_config.json", eos_token=["a"]),
        r"tokenizer_config\.json: eos_token = \['a'\], expected a text or null",
    ),
    "tokenizer list": (written("tokenizer.json", b"[]"), r"tokenizer\.json: found a JSON list"),
    "whole numbers": (
        tensors(lambda held: held.update({NORM: torch.ones(64, dtype=torch.int64)})),
        r"model\.safetensors: model\.norm\.weight holds integers \(I64\), expected floating",
    ),
    "added tokens": (
        lambda f: edit(f / "tokenizer.json", added_tokens=[{"id": 0, "content": "x"}] * 100_001),
        r"tokenizer\.json: found 100001 added tokens, expected at most 100000",
    ),
    "added tokens decoder": (
        lambda f: edit(
            f / "tokenizer_config.json", added_tokens_decoder={str(i): {} for i in range(100_001)}
        ),
        r"tokenizer_config\.json: found 100001 added tokens",
    ),
    "tokenizer empty": (written("tokenizer.json", b"{}"), r"tokenizer\.json: the tokenizer cannot"),
    "adapter": (
        written("adapter_config.json", b"{}"),
        r"adapter_config\.json: found a peft adapter where a model is expected; move",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_broken_folder_is_refused_in_one_line(folder, case):
    change, message = CASES[case]
    change(folder)
    started = time.process_time()
    with pytest.raises(DistillensError, match=message) as caught:
        read_model(str(folder))
    assert caught.value.exit_code == 2
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("change", [lambda folder: None, shards(lambda folder: None)])
def test_sound_folders_pass(folder, change):
    change(folder)
    assert TransformersBackend(read_model(str(folder)), device="cpu").model is not None


def test_weights_of_the_bare_body_pass(small_gpt2, tmp_path):
    """As those of openai-community/gpt2, whose names lack the prefix of the body."""
    folder = shutil.copytree(small_gpt2, tmp_path / "model")
    body = AutoModelForCausalLM.from_pretrained(folder).transformer
    save_file(
        {name: tensor.contiguous() for name, tensor in body.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    TransformersBackend(read_model(str(folder)), device="cpu")
    edit(folder / "config.json", n_positions=600)
    with pytest.raises(DistillensError, match=r"wpe\.weight has shape \[512, 64\], expected"):
        read_model(str(folder))


def test_parameters_that_the_weights_lack_end_the_run_by_name(folder):
    tensors(lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))(folder)
    facts = read_model(str(folder))
    with pytest.raises(RunFailure, match=r"1 parameters of .* missing, .*layers\.1\.mlp\.up_proj"):
        TransformersBackend(facts, device="cpu")


def test_weights_that_are_not_used_are_told(folder, capsys):
    tensors(lambda held: held.update({"value_head.weight": torch.ones(3)}))(folder)
    TransformersBackend(read_model(str(folder)), device="cpu")
    said = capsys.readouterr().err
    assert "LlamaForCausalLM has no place for 1 tensors of the weights, first value_h" in said


def test_a_tokenizer_with_more_ids_than_the_model_is_refused_with_both_sizes(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|user|>", "<|assistant|>"])
    tokenizer.save_pretrained(folder)
    for must_build in (True, False):  # of transformers, and of vLLM
        with pytest.raises(DistillensError, match=r"has 2050 ids, but the model .* has 2048") as e:
            read_model(str(folder), must_build=must_build)
        assert e.value.exit_code == 2


def test_end_tokens_that_are_no_ids_of_the_model_end_nothing_and_are_told(folder, capsys):
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 50256]}')
    assert read_model(str(folder)).stop_token_ids == (0,)
    said = capsys.readouterr().err
    assert "generation_config.json: eos_token_id = 50256, but the model has" in said
