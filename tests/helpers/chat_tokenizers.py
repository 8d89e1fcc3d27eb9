"""The stored chat templates, each with a small tokenizer that knows the template's signs."""

from pathlib import Path
from typing import Any

from small_tokenizers import byte_level

from eval_harness.shared.text.turn_tokens import EncodedTurns

FOLDER = Path(__file__).resolve().parent.parent / "chat_templates"

_CHATML = ("<|endoftext|>", ["<|im_start|>", "<|im_end|>"])
# The end token of each model, and its other special tokens.
_SIGNS = {
    "chatml": _CHATML,
    "smollm2": _CHATML,
    "qwen2_5": _CHATML,
    "qwen2_5_training": _CHATML,
    "qwen3": _CHATML,
    "llama3": ("<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "gemma": ("<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "mistral": ("</s>", ["[INST]", "[/INST]"]),
    "phi3": ("<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
}
_FIRST = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}
_TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
TEMPLATES = tuple(_SIGNS)


def chat_tokenizer(name: str) -> Any:
    """One token a byte, and the signs of a stored template as special tokens."""
    made = byte_level(signs=False)
    end, signs = _SIGNS[name]
    special = {"eos_token": end, "pad_token": end}
    if name in _FIRST:
        special["bos_token"] = _FIRST[name]
    made.add_special_tokens(special)
    made.add_tokens(signs, special_tokens=True)
    if name.startswith("qwen"):
        made.add_tokens(_TAGS)
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    made.chat_template = text.removesuffix("\n")  # a file's last line end is not the template's
    return made


def shown(found: EncodedTurns, tokenizer: Any) -> str:
    """The text of the tokens, with ⟦ and ⟧ around what is trained on."""
    text, inside = "", False
    for index, learnt in zip(found.ids, found.is_learnt, strict=True):
        if learnt != inside:
            text += "⟦" if learnt else "⟧"
        text, inside = text + tokenizer.decode([index]), learnt
    return text + ("⟧" if inside else "")
